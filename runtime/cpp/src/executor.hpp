// Executors: what runs a bundle on a device, and how one is chosen. See runtime/executor.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "search.hpp"

namespace camscribe::core {

// Both graphs of a bundle on one device, buffers included. For one thread at a time. `encode` begins a search, each `step`
// continues it, `trace` shows what was selected so far.
class Executor {
 public:
  virtual ~Executor() = default;

  // Steps to run between two looks at the trace: 1 where a look costs nothing.
  virtual int poll() const = 0;
  // image: uint8 [H, W, 3] RGB, reduced. bias: [V], added to the log-probabilities. Throws EngineError.
  virtual void encode(const cv::Mat& image, const SearchOptions& options, const std::vector<float>& bias) = 0;
  // Runs one decoder step; at most max_words after an `encode`.
  virtual void step() = 0;
  // The steps so far, in buffers that the next `encode` overwrites. Its attention is to be read only if asked for.
  virtual Trace trace(bool attention) = 0;
};

// What was found, and the trace of it.
struct Found {
  std::vector<Hypothesis> hypotheses;
  Trace trace;
};

// Searches captions of the image that `executor` has just encoded: n best, best first.
Found search(Executor& executor, const SearchOptions& options);

// How a bundle is to be opened.
struct LoadOptions {
  std::string backend = "auto";
  std::string precision;  // empty for the device's default
  int threads = 0;        // of a CPU; 0 for one per physical core
  std::string onnxruntime;
};

// Which backend was taken, and why.
struct Choice {
  std::string backend;
  std::string precision;
  std::vector<std::string> reasons;
};

struct Opened {
  std::unique_ptr<Executor> executor;
  Choice choice;
};

// Opens a bundle on the fastest backend that works here, or on the one that is asked for.
Opened open_executor(const Bundle& bundle, const LoadOptions& options);

}  // namespace camscribe::core
