// The thin part of the TensorRT executor: a GPU's memory and stream, and engines on it.
//
// Everything happens in the GPU's primary context, which all users of the CUDA runtime share. Calls must be within a
// `OnGpu`, which makes the GPU the current one of the calling thread and puts back what was.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "manifest.hpp"
#include "plan.hpp"

namespace camscribe::core {

// Throws EngineError, or MemoryError where memory ran out, if a call of CUDA failed.
void check_cuda(cudaError_t status, const char* doing);

// Makes the GPU the current one of this thread for the length of a block.
class OnGpu {
 public:
  OnGpu();
  ~OnGpu();
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_ = 0;
};

// What decides which engines run on a GPU.
struct GpuInfo {
  std::string name;
  std::string compute_capability;  // 8.7
  std::string tensorrt;            // 10.3.0
  bool integrated = false;         // a Jetson, where CPU and GPU share their memory
};

// Throws EngineError where there is no GPU or no driver.
GpuInfo gpu_info();

// A stream that does not wait for the default stream, where other libraries work.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t handle() const { return handle_; }
  void synchronize() const;

 private:
  cudaStream_t handle_ = nullptr;
};

// Memory that host and GPU both see: mapped on a Jetson, elsewhere pinned host memory with its image on the GPU. And memory
// that only the GPU sees.
class GpuMemory {
 public:
  GpuMemory(std::size_t shared_bytes, std::size_t private_bytes, bool mapped);

  std::uint8_t* host() const { return host_.get(); }
  std::uint8_t* shared() const { return shared_; }
  std::uint8_t* private_block() const { return private_.get(); }

  // Make the GPU see what the host wrote, and the host, after the next `synchronize`, what the GPU wrote.
  void upload(const Piece& piece, const Stream& stream) const;
  void download(const Piece& piece, const Stream& stream) const;

 private:
  struct FreeHost {
    void operator()(std::uint8_t* memory) const { cudaFreeHost(memory); }
  };
  struct FreeGpu {
    void operator()(std::uint8_t* memory) const { cudaFree(memory); }
  };

  std::unique_ptr<std::uint8_t, FreeHost> host_;
  std::unique_ptr<std::uint8_t, FreeGpu> image_;  // none where the memory is mapped
  std::unique_ptr<std::uint8_t, FreeGpu> private_;
  std::uint8_t* shared_ = nullptr;
};

// An engine with one execution context.
class Engine {
 public:
  // data: as TensorRT serialized it. Throws EngineError where it does not load or has other tensors than `graph`.
  Engine(const std::string& data, const GraphSpec& graph, const Sizes& sizes);

  // Enqueues the engine with its tensors at these places.
  void run(const Places& places, const Stream& stream);

 private:
  Problems problems(const GraphSpec& graph, const Sizes& sizes) const;

  std::string file_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::map<std::string, std::uint8_t*> addresses_;  // of the tensors that the engine has
};

// Work that is always the same: enqueued plainly the first time, since libraries set themselves up then, recorded as a CUDA
// graph the second time, and replayed from then on. If recording fails, all is enqueued plainly from then on.
class Recorder {
 public:
  using Key = std::pair<int, int>;

  Recorder() = default;
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void repeat(const Key& key, const Stream& stream, const std::function<void()>& work);

 private:
  // What work enqueues; null if it cannot be recorded.
  static cudaGraphExec_t record(const Stream& stream, const std::function<void()>& work);

  std::map<Key, cudaGraphExec_t> made_;  // null for work that was seen once
  bool failed_ = false;
};

}  // namespace camscribe::core
