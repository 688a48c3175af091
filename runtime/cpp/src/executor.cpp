#include "executor.hpp"

#include <algorithm>

#include "onnxruntime_executor.hpp"
#include "tensorrt_executor.hpp"

namespace camscribe::core {

namespace {

std::unique_ptr<Executor> open_cpu(const Bundle& bundle, const LoadOptions& options, const std::string& precision) {
  bundle.verify(precision);
  return std::make_unique<OnnxRuntimeExecutor>(bundle, precision, options.threads, options.onnxruntime);
}

// Searches with TensorRT, and on the CPU what TensorRT has no engines for.
class FallbackExecutor : public Executor {
 public:
  FallbackExecutor(std::unique_ptr<Executor> first, const Bundle& bundle, LoadOptions options)
      : first_(std::move(first)), active_(first_.get()), bundle_(bundle), options_(std::move(options)) {}

  int poll() const override { return active_->poll(); }

  void encode(const cv::Mat& image, const SearchOptions& options, const std::vector<float>& bias) override {
    try {
      active_ = first_.get();
      active_->encode(image, options, bias);
    } catch (const NoEngineError&) {
      if (second_ == nullptr) {
        const auto& wish = options_.precision;
        second_ = open_cpu(bundle_, options_, wish.empty() ? bundle_.manifest.cpu_precision : wish);
      }
      active_ = second_.get();
      active_->encode(image, options, bias);
    }
  }

  void step() override { active_->step(); }
  Trace trace(bool attention) override { return active_->trace(attention); }

 private:
  std::unique_ptr<Executor> first_;
  std::unique_ptr<Executor> second_;
  Executor* active_;
  const Bundle& bundle_;
  LoadOptions options_;
};

Opened open_cpu_because(const Bundle& bundle, const LoadOptions& options, std::vector<std::string> reasons) {
  const std::string precision = options.precision.empty() ? bundle.manifest.cpu_precision : options.precision;
  return {open_cpu(bundle, options, precision), {"cpu", precision, std::move(reasons)}};
}

Opened open_tensorrt_because(const Bundle& bundle, const LoadOptions& options, std::vector<std::string> reasons) {
  const bool has_fp16 = bundle.manifest.precisions.count("fp16") != 0;
  const std::string precision = !options.precision.empty() ? options.precision : has_fp16 ? "fp16" : "float32";
  bundle.manifest.pair(precision);  // exists
  bundle.verify(precision);
  return {open_tensorrt(bundle, precision), {"tensorrt", precision, std::move(reasons)}};
}

}  // namespace

Found search(Executor& executor, const SearchOptions& options) {
  StopState state(options);
  const int poll = std::max(options.poll, executor.poll());
  for (int step = 1; step <= options.max_words; ++step) {
    executor.step();
    if (step % poll == 0 && state.finished(executor.trace(false))) break;
  }
  const Trace trace = executor.trace(true);
  return {hypotheses(trace, options, state), trace};
}

Opened open_executor(const Bundle& bundle, const LoadOptions& options) {
  if (options.threads < 0 || options.threads > 1024) {
    throw OptionError("threads is " + std::to_string(options.threads) + "; expected 1 to 1024, or 0 for all cores");
  }
  if (options.backend == "cpu") return open_cpu_because(bundle, options, {"cpu: asked for"});
  if (options.backend == "tensorrt") return open_tensorrt_because(bundle, options, {"tensorrt: asked for"});
  if (options.backend != "auto") {
    throw OptionError("backend is '" + options.backend.substr(0, 60) + "'; expected auto, cpu or tensorrt");
  }
  try {
    Opened opened = open_tensorrt_because(bundle, options, {"tensorrt: taken, the fastest that works here"});
    opened.executor = std::make_unique<FallbackExecutor>(std::move(opened.executor), bundle, options);
    return opened;
  } catch (const Error& error) {
    if (error.status == CAMSCRIBE_BUNDLE_ERROR || error.status == CAMSCRIBE_OPTION_ERROR) throw;
    return open_cpu_because(bundle, options,
                            {std::string("tensorrt: ") + error.what(), "cpu: taken, it works everywhere"});
  }
}

}  // namespace camscribe::core
