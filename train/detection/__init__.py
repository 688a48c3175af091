"""Training of a Faster R-CNN with attributes, whose regions a captioner takes (Anderson et al. 2018)."""
