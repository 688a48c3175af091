// As much of TensorRT as libcamscribe calls, played on the host by emulated.cpp. The names and types are those of 10.3.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorLocation : std::int32_t { kDEVICE = 0, kHOST = 1 };

struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual ~ILogger() = default;
  virtual void log(Severity severity, const char* text) noexcept = 0;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const class ICudaEngine* engine) : engine_(engine) {}
  bool setTensorAddress(const char* name, void* address) noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;

 private:
  const ICudaEngine* engine_;
  std::map<std::string, void*> addresses_;
};

class ICudaEngine {
 public:
  struct Tensor {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    bool is_input;
  };

  ICudaEngine(const std::string& onnx, std::vector<Tensor> tensors);
  ~ICudaEngine();

  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(this); }
  std::int32_t getNbIOTensors() const noexcept { return std::int32_t(tensors_.size()); }
  const char* getIOTensorName(std::int32_t index) const noexcept { return tensors_[index].name.c_str(); }
  Dims getTensorShape(const char* name) const noexcept;
  DataType getTensorDataType(const char* name) const noexcept;
  TensorLocation getTensorLocation(const char*) const noexcept { return TensorLocation::kDEVICE; }

  void run(const std::map<std::string, void*>& addresses) const;
  // Whether it waits for a number of boxes while it runs, as TensorRT does after non-maximum suppression.
  bool waits() const noexcept;

 private:
  const Tensor& find(const std::string& name) const;

  struct Session;
  std::unique_ptr<Session> session_;
  std::vector<Tensor> tensors_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept;

 private:
  ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1

inline std::int32_t getInferLibVersion() noexcept { return 100300; }
