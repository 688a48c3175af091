// A GPU on the host. Nothing that is enqueued happens before the stream is waited for, so whoever reads too early reads what
// was there before; ONNX Runtime runs the engines, on the very addresses that they were given.
#include <NvInfer.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "onnxruntime_headers.hpp"
#include "onnxruntime_library.hpp"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  Work waiting;
  Work recorded;
  bool recording = false;

  void add(std::function<void()> work) { (recording ? recorded : waiting).push_back(std::move(work)); }
};

struct CUgraph_st {
  Work work;
};

struct CUgraphExec_st {
  Work work;
};

namespace {

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

int launches = 0;

}  // namespace

// How many recorded graphs were replayed so far, for tests.
extern "C" __attribute__((visibility("default"))) int camscribe_emulated_launches() { return launches; }

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "out of memory" : "?"; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = is_set("CAMSCRIBE_EMULATED_NO_GPU") ? 0 : 1, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"NVIDIA Test", 8, 7, is_set("CAMSCRIBE_EMULATED_JETSON") ? 1 : 0};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t size) {
  if (is_set("CAMSCRIBE_EMULATED_FULL")) return cudaErrorMemoryAllocation;
  *memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
  std::memset(*memory, 0xA5, size);  // as memory of a GPU, which nobody clears
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) { return std::free(memory), cudaSuccess; }
cudaError_t cudaHostAlloc(void** memory, std::size_t size, unsigned) { return cudaMalloc(memory, size); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, cudaSuccess; }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind, cudaStream_t stream) {
  stream->add([=] { std::memcpy(target, source, size); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = new CUstream_st, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  for (const auto& work : std::exchange(stream->waiting, {})) work();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (is_set("CAMSCRIBE_EMULATED_NO_GRAPHS")) return cudaErrorStreamCaptureInvalidated;
  return stream->recording = true, cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->recording = false;
  *graph = new CUgraph_st{std::exchange(stream->recorded, {})};
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  return *made = new CUgraphExec_st{graph->work}, cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  ++launches;
  for (const auto& work : graph->work) stream->add(work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

namespace nvinfer1 {

struct ICudaEngine::Session {
  Ort::Session session{nullptr};
};

ICudaEngine::ICudaEngine(const std::string& onnx, std::vector<Tensor> tensors)
    : session_(std::make_unique<Session>()), tensors_(std::move(tensors)) {
  camscribe::core::load_onnxruntime("");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  session_->session = Ort::Session(camscribe::core::onnxruntime_environment(), onnx.c_str(), options);
}

ICudaEngine::~ICudaEngine() = default;

const ICudaEngine::Tensor& ICudaEngine::find(const std::string& name) const {
  return *std::find_if(tensors_.begin(), tensors_.end(), [&](const Tensor& tensor) { return tensor.name == name; });
}

Dims ICudaEngine::getTensorShape(const char* name) const noexcept {
  Dims dims{};
  for (const std::int64_t size : find(name).shape) dims.d[dims.nbDims++] = size;
  return dims;
}

DataType ICudaEngine::getTensorDataType(const char* name) const noexcept {
  const std::map<std::string, DataType> types{{"float32", DataType::kFLOAT},
                                              {"float16", DataType::kHALF},
                                              {"int32", DataType::kINT32},
                                              {"uint8", DataType::kUINT8}};
  return types.at(find(name).dtype);
}

void ICudaEngine::run(const std::map<std::string, void*>& addresses) const {
  const std::map<std::string, std::pair<ONNXTensorElementDataType, std::size_t>> types{
      {"float32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}},
      {"float16", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}},
      {"int32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4}},
      {"uint8", {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1}}};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::IoBinding binding(session_->session);
  for (const Tensor& tensor : tensors_) {
    const auto [type, width] = types.at(tensor.dtype);
    std::size_t size = width;
    for (const std::int64_t axis : tensor.shape) size *= std::size_t(axis);
    auto value = Ort::Value::CreateTensor(memory, addresses.at(tensor.name), size, tensor.shape.data(),
                                          tensor.shape.size(), type);
    if (tensor.is_input) binding.BindInput(tensor.name.c_str(), value);
    if (!tensor.is_input) binding.BindOutput(tensor.name.c_str(), value);
  }
  session_->session.Run(Ort::RunOptions(), binding);
}

bool IExecutionContext::setTensorAddress(const char* name, void* address) noexcept {
  addresses_[name] = address;
  return reinterpret_cast<std::uintptr_t>(address) % 256 == 0;
}

bool ICudaEngine::waits() const noexcept {
  return std::any_of(tensors_.begin(), tensors_.end(), [](const Tensor& tensor) { return tensor.name == "boxes"; });
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
  if (stream->recording && engine_->waits()) return false;
  // The addresses are those of now, as in TensorRT.
  stream->add([engine = engine_, addresses = addresses_] { engine->run(addresses); });
  return true;
}

ICudaEngine* IRuntime::deserializeCudaEngine(const void* data, std::size_t size) noexcept {
  try {
    const auto plan = nlohmann::json::parse(std::string(static_cast<const char*>(data), size));
    std::vector<ICudaEngine::Tensor> tensors;
    for (const auto& item : plan.at("tensors")) {
      tensors.push_back({item.at("name"), item.at("dtype"), item.at("shape"), item.at("input")});
    }
    return new ICudaEngine(plan.at("onnx").get<std::string>(), std::move(tensors));
  } catch (const std::exception& error) {
    logger_.log(ILogger::Severity::kERROR, error.what());
    return nullptr;
  }
}

}  // namespace nvinfer1
