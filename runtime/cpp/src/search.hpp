// Beam search: the host's half of it, as runtime/search.py has it. The decoder graph selects and leaves a trace; hypotheses
// are read back from that trace, and the stop rules look at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace camscribe::core {

constexpr float kDead = -1e9F;  // the score of a dead beam and of a banned word

enum class StopRule { optimal, first_k };

// How captions are searched for; see runtime/search.py for each field.
struct SearchOptions {
  int beams = 3;
  int max_words = 20;
  int min_words = 0;
  double length_penalty = 1;
  int nbest = 1;
  std::vector<std::string> ban;
  StopRule stop = StopRule::optimal;
  int poll = 1;

  // Throws OptionError if they have no meaning.
  void check() const;
};

// Rows of numbers that somebody else owns, `stride` numbers apart.
template <class Number>
struct Rows {
  const Number* first = nullptr;
  std::size_t stride = 0;

  const Number* operator[](int row) const { return first + row * stride; }
};

// The recorded selections of the search of one image; row t is what step t decided. K beams, P positions. The numbers
// belong to an executor, whose next `encode` overwrites them.
struct Trace {
  int steps = 0;
  int beams = 0;
  int positions = 0;
  Rows<std::int32_t> token;         // [T, K]
  Rows<std::int32_t> parent;        // [T, K]
  Rows<float> score;                // [T, K]
  Rows<float> ended_score;          // [T, K]
  Rows<std::int32_t> ended_parent;  // [T, K]
  Rows<float> attention;            // [T, K * P], of the beams that step t continued
  const float* boxes = nullptr;     // [P, 4], where the encoder finds boxes; comes with the attention
};

// One caption of one image.
struct Hypothesis {
  std::vector<std::int32_t> tokens;  // without <s> and </s>
  double log_prob;                   // </s> included unless truncated
  double score;                      // log_prob / length**alpha
  bool truncated;                    // max_words came before </s>
  std::vector<float> attention;      // [words, P]
};

// The stop rule, fed step by step. It ignores everything after the step that satisfied it, so no result depends on how
// often the host looked.
class StopState {
 public:
  struct Ended {
    double score;
    double log_prob;
    int step;
    int beam;
  };

  explicit StopState(const SearchOptions& options);

  // Takes the steps recorded since the last call; true once later steps cannot matter.
  bool finished(const Trace& trace);

  const std::vector<Ended>& ended() const { return ended_; }  // in the order of their ending
  int steps() const { return steps_; }                        // looked at

 private:
  void feed(const Trace& trace, int step);

  SearchOptions options_;
  double final_penalty_;
  std::vector<double> best_;
  std::vector<Ended> ended_;
  int steps_ = 0;
  bool done_ = false;
};

// Reads the n best hypotheses back from a whole trace, best first: ended ones before truncated ones; among equals the one
// that ended first wins. `state` is what followed the trace, and is brought up to date.
std::vector<Hypothesis> hypotheses(const Trace& trace, const SearchOptions& options, StopState& state);

}  // namespace camscribe::core
