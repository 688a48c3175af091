#include "captioner.hpp"

#include <algorithm>
#include <chrono>
#include <opencv2/core.hpp>

namespace camscribe::core {

namespace {

using Clock = std::chrono::steady_clock;

double ms(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

// Runs what calls OpenCV, whose exceptions are its own.
template <class Work>
cv::Mat with_opencv(Work work) {
  try {
    return work();
  } catch (const cv::Exception& error) {
    if (error.code == cv::Error::StsNoMem) throw MemoryError("the image does not fit into memory");
    throw Error(CAMSCRIBE_INTERNAL_ERROR, "OpenCV failed: " + one_line(error.what()));
  }
}

template <class Number>
std::vector<Number> packed(const Rows<Number>& rows, int count, std::size_t width) {
  std::vector<Number> numbers;
  numbers.reserve(count * width);
  for (int row = 0; row < count; ++row) numbers.insert(numbers.end(), rows[row], rows[row] + width);
  return numbers;
}

// Boxes of what the model sees as fractions of the whole image; see in_whole_image in runtime/pixels.py.
std::vector<float> in_whole_image(const Trace& trace, const cv::Mat& image, const PixelSpec& spec) {
  if (trace.boxes == nullptr) return {};
  const Box seen = visible_box(image.rows, image.cols, spec);
  const float across = float(seen.columns) / float(image.cols), left = float(seen.left) / float(image.cols);
  const float down = float(seen.rows) / float(image.rows), top = float(seen.top) / float(image.rows);
  std::vector<float> boxes(trace.boxes, trace.boxes + 4 * std::size_t(trace.positions));
  for (auto box = boxes.begin(); box != boxes.end(); box += 4) {
    if (std::all_of(box, box + 4, [](float corner) { return corner == 0; })) continue;  // none
    for (int axis : {0, 2}) box[axis] = box[axis] * across + left;
    for (int axis : {1, 3}) box[axis] = box[axis] * down + top;
  }
  return boxes;
}

}  // namespace

OwnTrace::OwnTrace(const Trace& trace)
    : steps(trace.steps),
      beams(trace.beams),
      positions(trace.positions),
      token(packed(trace.token, steps, beams)),
      parent(packed(trace.parent, steps, beams)),
      ended_parent(packed(trace.ended_parent, steps, beams)),
      score(packed(trace.score, steps, beams)),
      ended_score(packed(trace.ended_score, steps, beams)),
      attention(packed(trace.attention, steps, std::size_t(beams) * positions)) {}

Captioner::Captioner(const std::filesystem::path& path, const LoadOptions& options)
    : bundle(path), opened_(open_executor(bundle, options)) {}

Caption Captioner::caption(const camscribe_image& image, const SearchOptions& options) {
  const auto begin = Clock::now();
  const cv::Mat rgb = with_opencv([&] { return as_rgb(image); });
  const auto read = Clock::now();
  const cv::Mat pixels = with_opencv([&] { return reduce(rgb, bundle.manifest.pixels); });
  const auto reduced = Clock::now();
  const std::vector<float> bias = bundle.vocabulary.bias(options.ban);
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  opened_.executor->encode(pixels, options, bias);
  const auto encoded = Clock::now();
  Found found = search(*opened_.executor, options);
  const auto decoded = Clock::now();
  OwnTrace trace(found.trace);  // while nobody else begins a search
  std::vector<float> boxes = in_whole_image(found.trace, rgb, bundle.manifest.pixels);
  lock.unlock();
  Caption caption{{}, std::move(trace), std::move(boxes), {}, bundle.manifest.rows, bundle.manifest.columns};
  for (auto& hypothesis : found.hypotheses) caption.sentences.push_back(sentence(std::move(hypothesis)));
  if (caption.sentences.empty()) {
    throw OptionError("no caption is possible: " + std::to_string(options.ban.size()) +
                      " banned words and min_words leave no word over");
  }
  caption.timings = {ms(begin, read), ms(read, reduced), ms(start, encoded), ms(encoded, decoded),
                     ms(decoded, Clock::now())};
  return caption;
}

Sentence Captioner::sentence(Hypothesis hypothesis) const {
  Sentence made{std::move(hypothesis), {}, {}};
  for (const std::int32_t id : made.hypothesis.tokens) {
    const std::string* word = bundle.vocabulary.word(id);
    if (word == nullptr) throw EngineError("the decoder gave word " + std::to_string(id) + ": export the bundle again");
    made.words.push_back(*word);
  }
  made.text = join(made.words, " ");
  return made;
}

}  // namespace camscribe::core
