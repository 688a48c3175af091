#include "onnxruntime_executor.hpp"

#include <algorithm>
#include <cstring>
#include <future>
#include <opencv2/core/mat.hpp>

#include "onnxruntime_headers.hpp"
#include "onnxruntime_library.hpp"
#include "plan.hpp"
#include "threads.hpp"

namespace camscribe::core {

namespace {

constexpr std::size_t kBatchesKept = 4;  // numbers of beams and steps whose memory is kept

std::string dtype_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    default: return "type " + std::to_string(type);
  }
}

ONNXTensorElementDataType element_type(const std::string& dtype) {
  if (dtype == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (dtype == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (dtype == "int32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

TensorSpec spec_of(std::string name, const Ort::TypeInfo& info) {
  const auto tensor = info.GetTensorTypeAndShapeInfo();
  const auto shape = tensor.GetShape();
  std::vector<const char*> symbols(shape.size());
  tensor.GetSymbolicDimensions(symbols.data(), symbols.size());
  TensorSpec spec{std::move(name), dtype_name(tensor.GetElementType()), {}};
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] >= 0) {
      spec.shape.emplace_back(shape[axis]);
    } else {
      spec.shape.emplace_back(std::string(*symbols[axis] != '\0' ? symbols[axis] : "?"));
    }
  }
  return spec;
}

Ort::Session open_session(const std::filesystem::path& path, int threads) {
  Ort::SessionOptions options;
  // Named, because ONNX Runtime's own default counts the cores of the machine, not those of a container.
  options.SetIntraOpNumThreads(threads != 0 ? threads : physical_cores());
  options.SetInterOpNumThreads(1);
  // Waiting threads spin, but not beyond a run, where the threads of the other graph need the cores.
  options.AddConfigEntry("session.force_spinning_stop", "1");
  options.SetLogSeverityLevel(4);  // what goes wrong is thrown, and said in one line
  try {
    return Ort::Session(onnxruntime_environment(), path.c_str(), options);
  } catch (const Ort::Exception& error) {
    throw EngineError(path.string() + ": ONNX Runtime cannot open it: " + one_line(error.what()));
  }
}

// What a session has otherwise than the manifest says.
Problems problems_of(const Ort::Session& session, const GraphSpec& graph) {
  Ort::AllocatorWithDefaultOptions allocator;
  TensorSpecs inputs, outputs;
  for (std::size_t index = 0; index < session.GetInputCount(); ++index) {
    inputs.push_back(spec_of(session.GetInputNameAllocated(index, allocator).get(), session.GetInputTypeInfo(index)));
  }
  for (std::size_t index = 0; index < session.GetOutputCount(); ++index) {
    outputs.push_back(
        spec_of(session.GetOutputNameAllocated(index, allocator).get(), session.GetOutputTypeInfo(index)));
  }
  return graph.differences(inputs, outputs);
}

// A graph's tensors at their places. log_prob is not wanted, so it is never fetched.
Ort::IoBinding bound(Ort::Session& session, const GraphSpec& graph, const Sizes& sizes, const Places& places) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::IoBinding binding(session);
  const auto tensor = [&](const TensorSpec& spec) {
    const auto shape = spec.fixed_shape(sizes);
    return Ort::Value::CreateTensor(memory, address_of(places, spec, sizes), bytes_of(spec, sizes), shape.data(),
                                    shape.size(), element_type(spec.dtype));
  };
  for (const TensorSpec& spec : graph.inputs) binding.BindInput(spec.name.c_str(), tensor(spec));
  for (const TensorSpec& spec : graph.outputs) {
    if (spec.name != "log_prob") binding.BindOutput(spec.name.c_str(), tensor(spec));
  }
  return binding;
}

// Zeroed memory for tensors.
struct Memory {
  explicit Memory(std::size_t bytes)
      : held(static_cast<std::uint8_t*>(::operator new(bytes, kAlignment)), Free()), begin(held.get()) {
    std::memset(begin, 0, bytes);
  }

  static constexpr std::align_val_t kAlignment{256};
  struct Free {
    void operator()(std::uint8_t* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<std::uint8_t, Free> held;
  std::uint8_t* begin;
};

}  // namespace

struct OnnxRuntimeExecutor::Sessions {
  Ort::Session encoder{nullptr};
  Ort::Session decoder{nullptr};
  Ort::RunOptions run_options;
};

// Memory and bindings for a number of beams and steps, made once: a step is one call that copies and allocates nothing.
class OnnxRuntimeExecutor::Batch {
 public:
  Batch(Sessions& sessions, const Manifest& manifest, const GraphPair& pair, int beams, int steps)
      : beams(beams),
        steps(steps),
        plan_(manifest, pair, beams, steps),
        shared_(plan_.shared_bytes()),
        private_(plan_.private_bytes()) {
    const Sizes sizes = manifest.sizes(beams);
    plan_.prepare(shared_.begin);
    encoder = bound(sessions.encoder, pair.encoder, sizes, plan_.encoder(private_.begin, shared_.begin));
    for (int step = 0; step < steps; ++step) {
      decoder.push_back(
          bound(sessions.decoder, pair.decoder, sizes, plan_.decoder(private_.begin, shared_.begin, step)));
    }
  }

  void start(const cv::Mat& image, int min_words, const std::vector<float>& bias) {
    const std::size_t row = image.elemSize() * image.cols;
    for (int y = 0; y < image.rows; ++y) std::memcpy(plan_.image(shared_.begin) + y * row, image.ptr(y), row);
    *plan_.min_words(shared_.begin) = min_words;
    std::copy(bias.begin(), bias.end(), plan_.bias(shared_.begin));
  }

  void spread_states() {
    for (const Copy& copy : plan_.spread(private_.begin)) std::memcpy(copy.target, copy.source, copy.bytes);
  }

  Trace trace(int done) const { return plan_.trace(shared_.begin, done); }

  const int beams;
  const int steps;
  Ort::IoBinding encoder{nullptr};
  std::vector<Ort::IoBinding> decoder;  // of each step

 private:
  Plan plan_;
  Memory shared_;
  Memory private_;
};

OnnxRuntimeExecutor::OnnxRuntimeExecutor(const Bundle& bundle, const std::string& precision, int threads,
                                         const std::string& onnxruntime)
    : manifest_(bundle.manifest), pair_(bundle.manifest.pair(precision)) {
  load_onnxruntime(onnxruntime);
  sessions_ = std::make_unique<Sessions>();
  // Opening takes most of the time until the first caption, and ONNX Runtime uses one core for it.
  auto encoder =
      std::async(std::launch::async, [&] { return open_session(bundle.path / pair_.encoder.file, threads); });
  sessions_->decoder = open_session(bundle.path / pair_.decoder.file, threads);
  sessions_->encoder = encoder.get();
  Problems problems = problems_of(sessions_->encoder, pair_.encoder);
  for (auto& problem : problems_of(sessions_->decoder, pair_.decoder)) problems.push_back(std::move(problem));
  if (!problems.empty()) {
    throw BundleError(bundle.path.string() + ": " + join(problems, "; ") + ": export the bundle again");
  }
}

OnnxRuntimeExecutor::~OnnxRuntimeExecutor() = default;

void OnnxRuntimeExecutor::encode(const cv::Mat& image, const SearchOptions& options, const std::vector<float>& bias) {
  batch_ = nullptr;
  Batch& batch = batch_for(options.beams, options.max_words);
  batch.start(image, options.min_words, bias);
  try {
    sessions_->encoder.Run(sessions_->run_options, batch.encoder);
  } catch (const Ort::Exception& error) {
    throw EngineError("ONNX Runtime failed on the CPU: " + one_line(error.what()));
  }
  batch.spread_states();
  batch_ = &batch;
  step_ = 0;
}

void OnnxRuntimeExecutor::step() {
  if (batch_ == nullptr || step_ >= batch_->steps) {
    throw EngineError("step was called without encode, or more than max_words times after it");
  }
  try {
    sessions_->decoder.Run(sessions_->run_options, batch_->decoder[step_]);
  } catch (const Ort::Exception& error) {
    throw EngineError("ONNX Runtime failed on the CPU: " + one_line(error.what()));
  }
  ++step_;
}

Trace OnnxRuntimeExecutor::trace(bool /*attention*/) {
  if (batch_ == nullptr) throw EngineError("trace was called without encode");
  return batch_->trace(step_);
}

OnnxRuntimeExecutor::Batch& OnnxRuntimeExecutor::batch_for(int beams, int steps) {
  const auto found = std::find_if(batches_.begin(), batches_.end(), [&](const Batch& batch) {
    return batch.beams == beams && batch.steps == steps;
  });
  if (found != batches_.end()) {
    batches_.splice(batches_.begin(), batches_, found);
  } else {
    if (batches_.size() >= kBatchesKept) batches_.pop_back();
    batches_.emplace_front(*sessions_, manifest_, pair_, beams, steps);
  }
  return batches_.front();
}

}  // namespace camscribe::core
