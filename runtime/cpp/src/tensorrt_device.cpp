#include "tensorrt_device.hpp"

#include <dlfcn.h>

#include <cstring>
#include <mutex>
#include <set>

namespace camscribe::core {

namespace {

constexpr int kGpu = 0;

// TensorRT logs instead of throwing, so its last warning or error is kept. One for the process, as TensorRT keeps the first
// logger that it is given.
class Messages : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kWARNING) return;
    try {
      const std::lock_guard lock(mutex_);
      last_ = one_line(text);
    } catch (...) {
      // A message is lost, no more.
    }
  }

  std::string last() {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "it does not say why" : last_;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

Messages& messages() {
  static auto* const made = new Messages;  // TensorRT may log until the process ends
  return *made;
}

// 8601 is 8.6.1, and 100300 is 10.3.0.
int tensorrt_major() {
  const int number = getInferLibVersion();
  return number >= 100000 ? number / 10000 : number / 1000;
}

std::string tensorrt_version() {
  const int number = getInferLibVersion();
  const int major = tensorrt_major();
  const int rest = number >= 100000 ? number % 10000 : number % 1000;
  return std::to_string(major) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
}

nvinfer1::IRuntime& runtime() {
  static const auto made = [] {
    auto* const runtime = nvinfer1::createInferRuntime(messages());
    if (runtime == nullptr) throw EngineError("TensorRT does not start: " + messages().last());
    return runtime;
  }();
  return *made;
}

// Makes the layers known that TensorRT keeps in a library of its own. RoiAlign is one of them, in every version.
void register_plugins() {
  static const bool registered = [] {
    const std::string name = "libnvinfer_plugin.so." + std::to_string(tensorrt_major());
    void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // never unloaded: engines go on using it
    const char* const said = library == nullptr ? dlerror() : nullptr;
    using Register = bool (*)(void*, const char*);
    const auto call = library == nullptr ? nullptr : reinterpret_cast<Register>(dlsym(library, "initLibNvInferPlugins"));
    if (call == nullptr || !call(static_cast<nvinfer1::ILogger*>(&messages()), "")) {
      throw EngineError("TensorRT's library of plugins, which captions with boxes need, cannot be used (" +
                        one_line(said != nullptr ? said : name) + "): install libnvinfer-plugin" +
                        std::to_string(tensorrt_major()));
    }
    return true;
  }();
  static_cast<void>(registered);
}

// Null where TensorRT refuses the data. Only encoders with boxes need plugins, and others need not wait for them.
nvinfer1::ICudaEngine* deserialize(const std::string& data, const GraphSpec& graph) {
  if (graph.has_boxes()) register_plugins();
  return runtime().deserializeCudaEngine(data.data(), data.size());
}

std::string dtype_name(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return "float32";
    case nvinfer1::DataType::kHALF: return "float16";
    case nvinfer1::DataType::kINT32: return "int32";
    case nvinfer1::DataType::kUINT8: return "uint8";
    default: return "type " + std::to_string(int(type));
  }
}

}  // namespace

void check_cuda(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // forgets it, where it did not break the context
  const std::string said = std::string(doing) + " (" + cudaGetErrorString(status) + ")";
  if (status == cudaErrorMemoryAllocation) {
    throw MemoryError("GPU memory ran out " + said + "; close other programs on the GPU, or lower the beams");
  }
  throw EngineError("CUDA failed " + said + "; if it goes on, restart this program");
}

OnGpu::OnGpu() {
  check_cuda(cudaGetDevice(&before_), "asking for the current GPU");
  check_cuda(cudaSetDevice(kGpu), "selecting the GPU");
}

OnGpu::~OnGpu() {
  if (before_ != kGpu) cudaSetDevice(before_);
}

GpuInfo gpu_info() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count < 1) {
    cudaGetLastError();
    throw EngineError(std::string("there is no NVIDIA GPU here, or its driver does not start") +
                      (status == cudaSuccess ? "" : std::string(" (") + cudaGetErrorString(status) + ")"));
  }
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, kGpu), "asking what the GPU is");
  return {properties.name, std::to_string(properties.major) + "." + std::to_string(properties.minor),
          tensorrt_version(), properties.integrated != 0};
}

Stream::Stream() { check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(handle_); }

void Stream::synchronize() const { check_cuda(cudaStreamSynchronize(handle_), "waiting for the GPU"); }

GpuMemory::GpuMemory(std::size_t shared_bytes, std::size_t private_bytes, bool mapped) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, shared_bytes, mapped ? cudaHostAllocMapped : cudaHostAllocDefault),
             "taking pinned memory");
  host_.reset(static_cast<std::uint8_t*>(memory));
  std::memset(memory, 0, shared_bytes);
  if (mapped) {
    check_cuda(cudaHostGetDevicePointer(&memory, host_.get(), 0), "mapping memory");
    shared_ = static_cast<std::uint8_t*>(memory);
  } else {
    check_cuda(cudaMalloc(&memory, shared_bytes), "taking GPU memory");
    image_.reset(static_cast<std::uint8_t*>(memory));
    shared_ = image_.get();
  }
  check_cuda(cudaMalloc(&memory, private_bytes), "taking GPU memory");
  private_.reset(static_cast<std::uint8_t*>(memory));
}

void GpuMemory::upload(const Piece& piece, const Stream& stream) const {
  if (image_ == nullptr) return;
  check_cuda(cudaMemcpyAsync(shared_ + piece.begin, host_.get() + piece.begin, piece.end - piece.begin,
                             cudaMemcpyHostToDevice, stream.handle()),
             "copying to the GPU");
}

void GpuMemory::download(const Piece& piece, const Stream& stream) const {
  if (image_ == nullptr) return;
  check_cuda(cudaMemcpyAsync(host_.get() + piece.begin, shared_ + piece.begin, piece.end - piece.begin,
                             cudaMemcpyDeviceToHost, stream.handle()),
             "copying from the GPU");
}

Engine::Engine(const std::string& data, const GraphSpec& graph, const Sizes& sizes)
    : file_(graph.file), engine_(deserialize(data, graph)) {
  const std::string name = "the engine of " + graph.file;
  if (engine_ == nullptr) {
    throw EngineError(name + " does not load: " + messages().last() + ": run camscribe build again");
  }
  context_.reset(engine_->createExecutionContext());
  if (context_ == nullptr) {
    throw EngineError(name + " has no room to work: " + messages().last() +
                      "; close other programs on the GPU, or lower the beams");
  }
  for (std::int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
    addresses_[engine_->getIOTensorName(index)] = nullptr;
  }
  const Problems found = problems(graph, sizes);
  if (!found.empty()) throw EngineError(name + " does not fit: " + join(found, "; ") + ": run camscribe build again");
}

void Engine::run(const Places& places, const Stream& stream) {
  for (auto& [name, address] : addresses_) {
    std::uint8_t* const wanted = places.at(name).address;
    if (wanted == address) continue;
    if (!context_->setTensorAddress(name.c_str(), wanted)) {
      throw EngineError("TensorRT refuses an address of " + name + " of " + file_ + ": " + messages().last());
    }
    address = wanted;
  }
  if (!context_->enqueueV3(stream.handle())) {
    throw EngineError("TensorRT failed to run " + file_ + ": " + messages().last() +
                      "; if it goes on, restart the program");
  }
}

Problems Engine::problems(const GraphSpec& graph, const Sizes& sizes) const {
  Problems problems;
  std::set<std::string> unknown;
  for (const auto& [name, address] : addresses_) unknown.insert(name);
  TensorSpecs expected = graph.inputs;
  expected.insert(expected.end(), graph.outputs.begin(), graph.outputs.end());
  for (const TensorSpec& spec : expected) {
    if (unknown.erase(spec.name) == 0) {
      if (spec.name != "log_prob") problems.push_back(spec.name + " is missing");
      continue;
    }
    TensorSpec found{spec.name, dtype_name(engine_->getTensorDataType(spec.name.c_str())), {}};
    TensorSpec wanted{spec.name, spec.dtype, {}};
    const nvinfer1::Dims shape = engine_->getTensorShape(spec.name.c_str());
    for (std::int32_t axis = 0; axis < shape.nbDims; ++axis) found.shape.emplace_back(std::int64_t(shape.d[axis]));
    for (const std::int64_t size : spec.fixed_shape(sizes)) wanted.shape.emplace_back(size);
    if (found.text() != wanted.text()) problems.push_back("has " + found.text() + "; expected " + wanted.text());
    if (engine_->getTensorLocation(spec.name.c_str()) != nvinfer1::TensorLocation::kDEVICE) {
      problems.push_back(spec.name + " lies on the host");
    }
  }
  for (const auto& name : unknown) problems.push_back(name + " is unknown");
  return problems;
}

Recorder::~Recorder() {
  for (const auto& [key, graph] : made_) {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
}

void Recorder::repeat(const Key& key, const Stream& stream, const std::function<void()>& work) {
  const auto seen = made_.find(key);
  if (failed_ || seen == made_.end()) {
    work();
    if (!failed_) made_[key] = nullptr;
    return;
  }
  if (seen->second == nullptr) {
    seen->second = record(stream, work);
    if (seen->second == nullptr) {
      failed_ = true;
      work();  // what was recorded has not run; if the work itself is at fault, it says so
      return;
    }
  }
  check_cuda(cudaGraphLaunch(seen->second, stream.handle()), "starting a graph");
}

cudaGraphExec_t Recorder::record(const Stream& stream, const std::function<void()>& work) {
  // Other threads may go on allocating memory meanwhile.
  if (cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  bool good = true;
  try {
    work();
  } catch (const Error&) {
    good = false;
  }
  cudaGraph_t graph = nullptr;
  // Ends the recording in any case, and with it the stream's special state.
  good = cudaStreamEndCapture(stream.handle(), &graph) == cudaSuccess && good;
  cudaGraphExec_t made = nullptr;
  if (good && cudaGraphInstantiateWithFlags(&made, graph, 0) != cudaSuccess) made = nullptr;
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
  return made;
}

}  // namespace camscribe::core
