#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <sstream>

#include "errors.hpp"

namespace camscribe::core {

namespace {

constexpr float kAlive = -5e8F;  // scores above this are real

template <class Value>
void expect(bool good, const char* name, Value value, const std::string& expected) {
  if (good) return;
  std::ostringstream text;
  text << name << " is " << value << "; expected " << expected;
  throw OptionError(text.str());
}

// A beam that a graph named, which may be any number if the graph is not what it should be.
int checked(int beam, const Trace& trace) {
  if (0 <= beam && beam < trace.beams) return beam;
  throw EngineError("the decoder continues beam " + std::to_string(beam) + " of " + std::to_string(trace.beams) +
                    ": export the bundle again");
}

// Follows the parents from the beam that step `step` continued back to the start.
Hypothesis read_back(const Trace& trace, int step, int beam, double log_prob, double score, bool truncated) {
  Hypothesis found{std::vector<std::int32_t>(step), log_prob, score, truncated, {}};
  const std::size_t positions = trace.positions;
  found.attention.resize(step * positions);
  for (int row = step - 1; row >= 0; --row) {
    found.tokens[row] = trace.token[row][beam];
    // Row t holds the attention of the beams before its selection, so a word's is found at its parent.
    beam = checked(trace.parent[row][beam], trace);
    std::copy_n(trace.attention[row] + beam * positions, positions, found.attention.begin() + row * positions);
  }
  return found;
}

}  // namespace

void SearchOptions::check() const {
  const auto upto = [](int number) { return std::to_string(number); };
  expect(1 <= beams && beams <= 64, "beams", beams, "1 to 64");
  expect(1 <= max_words && max_words <= 200, "max_words", max_words, "1 to 200");
  expect(0 <= min_words && min_words < max_words, "min_words", min_words,
         "0 to max_words - 1 = " + upto(max_words - 1));
  expect(1 <= nbest && nbest <= beams, "nbest", nbest,
         "1 to beams = " + upto(beams) + ": raise beams or lower nbest");
  expect(-10 <= length_penalty && length_penalty <= 10, "length_penalty", length_penalty, "a number from -10 to 10");
  if (stop == StopRule::optimal && length_penalty < 0) {
    throw OptionError("stop 'optimal' needs length_penalty >= 0; use stop 'first_k' for a negative one");
  }
  expect(1 <= poll && poll <= max_words, "poll", poll, "1 to max_words = " + upto(max_words));
}

StopState::StopState(const SearchOptions& options)
    : options_(options), final_penalty_(std::pow(double(options.max_words), options.length_penalty)) {}

bool StopState::finished(const Trace& trace) {
  while (!done_ && steps_ < trace.steps) feed(trace, steps_);
  return done_;
}

void StopState::feed(const Trace& trace, int step) {
  steps_ = step + 1;
  const double penalty = std::pow(double(steps_), options_.length_penalty);
  const std::size_t before = ended_.size();
  for (int rank = 0; rank < trace.beams; ++rank) {
    const double log_prob = trace.ended_score[step][rank];
    if (log_prob > kAlive) {
      ended_.push_back({log_prob / penalty, log_prob, step, checked(trace.ended_parent[step][rank], trace)});
      best_.push_back(log_prob / penalty);
    }
  }
  if (ended_.size() > before) {
    std::sort(best_.begin(), best_.end(), std::greater<>());
    best_.resize(std::min<std::size_t>(best_.size(), options_.nbest));
  }
  const double best_live = trace.score[step][0];  // the best comes first
  if (best_live <= kAlive || steps_ >= options_.max_words) {
    done_ = true;
  } else if (options_.stop == StopRule::first_k) {
    done_ = ended_.size() >= std::size_t(options_.beams);
  } else if (best_.size() >= std::size_t(options_.nbest)) {
    done_ = best_.back() >= best_live / final_penalty_;
  }
}

std::vector<Hypothesis> hypotheses(const Trace& trace, const SearchOptions& options, StopState& state) {
  state.finished(trace);
  auto ended = state.ended();
  std::stable_sort(ended.begin(), ended.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  ended.resize(std::min<std::size_t>(ended.size(), options.nbest));
  std::vector<Hypothesis> found;
  for (const auto& item : ended) {
    found.push_back(read_back(trace, item.step, item.beam, item.log_prob, item.score, false));
  }
  if (state.steps() >= options.max_words) {
    const int last = state.steps() - 1;
    const double penalty = std::pow(double(state.steps()), options.length_penalty);
    for (int beam = 0; beam < trace.beams && found.size() < std::size_t(options.nbest); ++beam) {
      const double log_prob = trace.score[last][beam];
      // The live beam of row `last` is read as if a next step had ended it.
      if (log_prob > kAlive) found.push_back(read_back(trace, last + 1, beam, log_prob, log_prob / penalty, true));
    }
  }
  return found;
}

}  // namespace camscribe::core
