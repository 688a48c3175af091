// Images in, captions out; see runtime/captioner.py.
#pragma once

#include <camscribe/camscribe.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "executor.hpp"

namespace camscribe::core {

// One hypothesis with its words.
struct Sentence {
  Hypothesis hypothesis;
  std::vector<std::string> words;
  std::string text;
};

// A trace with numbers of its own, without gaps between its rows.
struct OwnTrace {
  explicit OwnTrace(const Trace& trace);

  int steps;
  int beams;
  int positions;
  std::vector<std::int32_t> token, parent, ended_parent;
  std::vector<float> score, ended_score, attention;
};

struct Timings {
  double read_ms = 0, reduce_ms = 0, encode_ms = 0, decode_ms = 0, words_ms = 0;
};

// What was found for an image. Owns everything.
struct Caption {
  std::vector<Sentence> sentences;
  OwnTrace trace;
  std::vector<float> boxes;  // [P, 4] as fractions of the whole image; empty where the encoder finds none
  Timings timings;
  int rows;
  int columns;
};

// A loaded bundle, ready to caption. Any number of threads may call `caption`.
class Captioner {
 public:
  Captioner(const std::filesystem::path& path, const LoadOptions& options);

  // options: as `search_options` made them.
  Caption caption(const camscribe_image& image, const SearchOptions& options);

  const Bundle bundle;
  const Choice& choice() const { return opened_.choice; }

 private:
  Sentence sentence(Hypothesis hypothesis) const;

  Opened opened_;
  std::mutex mutex_;  // of the executor
};

}  // namespace camscribe::core
