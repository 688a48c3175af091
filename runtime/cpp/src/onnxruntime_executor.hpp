// ONNX Runtime on a CPU as an executor; see runtime/onnxruntime_executor.py.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "executor.hpp"

namespace camscribe::core {

class OnnxRuntimeExecutor : public Executor {
 public:
  // threads: of the CPU, 0 for one per physical core. onnxruntime: see `load_onnxruntime`.
  // Throws EngineError where a graph does not load, BundleError where it has other tensors than the manifest says.
  OnnxRuntimeExecutor(const Bundle& bundle, const std::string& precision, int threads, const std::string& onnxruntime);
  ~OnnxRuntimeExecutor() override;

  int poll() const override { return 1; }
  void encode(const cv::Mat& image, const SearchOptions& options, const std::vector<float>& bias) override;
  void step() override;
  Trace trace(bool attention) override;

 private:
  struct Sessions;
  class Batch;

  Batch& batch_for(int beams, int steps);

  const Manifest& manifest_;
  const GraphPair& pair_;
  std::unique_ptr<Sessions> sessions_;
  std::list<Batch> batches_;  // the one used last comes first
  Batch* batch_ = nullptr;
  int step_ = 0;
};

}  // namespace camscribe::core
