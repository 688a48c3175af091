#include "tensorrt_executor.hpp"

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <opencv2/core/mat.hpp>

#include "engine_cache.hpp"
#include "tensorrt_device.hpp"

namespace camscribe::core {

namespace {

constexpr std::size_t kBatchesKept = 16;  // numbers of beams and steps whose memory is kept
// Steps between two looks: a look costs about a step on a card; on a Jetson a step costs more than a look.
constexpr int kPoll = 4, kPollIntegrated = 2;
constexpr Recorder::Key kEncode{-1, -1};

class TensorRTExecutor : public Executor {
 public:
  TensorRTExecutor(const Bundle& bundle, std::string precision)
      : bundle_(bundle), pair_(bundle.manifest.pair(precision)), precision_(std::move(precision)), gpu_(gpu_info()) {
    const OnGpu on_gpu;
    stream_ = std::make_unique<Stream>();
    const int beams = bundle.manifest.search.beams;
    encoder_ = open(pair_.encoder, "encoder", 0, beams);
    decoder_for(beams);
  }

  ~TensorRTExecutor() override {
    try {
      const OnGpu on_gpu;
      cudaStreamSynchronize(stream_->handle());
      batches_.clear();
      decoders_.clear();
      encoder_.reset();
      stream_.reset();
    } catch (const Error&) {
      // A broken context has freed everything already.
    }
  }

  int poll() const override { return gpu_.integrated ? kPollIntegrated : kPoll; }

  void encode(const cv::Mat& image, const SearchOptions& options, const std::vector<float>& bias) override {
    batch_ = nullptr;
    const OnGpu on_gpu;
    stream_->synchronize();  // a search that was given up may still read what is written now
    Engine& decoder = decoder_for(options.beams);
    Batch& batch = batch_for(options.beams, options.max_words);
    batch.write(image, options.min_words, bias);
    batch.memory.upload(batch.plan.inputs(), *stream_);
    const auto work = [&] {
      encoder_->run(batch.encoder, *stream_);
      for (const Copy& copy : batch.plan.spread(batch.memory.private_block())) {
        check_cuda(cudaMemcpyAsync(copy.target, copy.source, copy.bytes, cudaMemcpyDeviceToDevice, stream_->handle()),
                   "copying on the GPU");
      }
    };
    if (pair_.encoder.has_boxes()) {
      work();  // how many boxes overlap depends on the image; TensorRT waits for that number, which cannot be recorded
    } else {
      batch.recorder.repeat(kEncode, *stream_, work);
    }
    batch_ = &batch;
    decoder_ = &decoder;
    step_ = enqueued_ = fetched_ = 0;
    interval_ = std::max(poll(), options.poll);
  }

  // A whole interval between two looks is enqueued at its first step.
  void step() override {
    if (batch_ == nullptr || step_ >= batch_->plan.steps()) {
      throw EngineError("step was called without encode, or more than max_words times after it");
    }
    if (step_ == enqueued_) {
      const int first = enqueued_, last = std::min(first + interval_, batch_->plan.steps());
      give_up_if_it_fails([&] {
        batch_->recorder.repeat({first, last}, *stream_, [&] {
          for (int step = first; step < last; ++step) decoder_->run(batch_->decoder[step], *stream_);
        });
      });
      enqueued_ = last;
    }
    ++step_;
  }

  Trace trace(bool attention) override {
    if (batch_ == nullptr) throw EngineError("trace was called without encode");
    give_up_if_it_fails([&] {
      if (fetched_ < step_) batch_->memory.download(batch_->plan.rows(fetched_, step_), *stream_);
      if (attention && step_ > 0) batch_->memory.download(batch_->plan.attention(step_), *stream_);
      stream_->synchronize();
    });
    fetched_ = step_;
    return batch_->plan.trace(batch_->memory.host(), step_);
  }

 private:
  // Memory and addresses for a number of beams and steps, made once.
  struct Batch {
    Batch(const Manifest& manifest, const GraphPair& pair, int beams, int steps, bool mapped, const Stream& stream)
        : beams(beams),
          plan(manifest, pair, beams, steps),
          memory(plan.shared_bytes(), plan.private_bytes(), mapped),
          encoder(plan.encoder(memory.private_block(), memory.shared())) {
      const Sizes sizes = manifest.sizes(beams);
      for (int step = 0; step < steps; ++step) {
        decoder.push_back(plan.decoder(memory.private_block(), memory.shared(), step));
      }
      check(pair.encoder, encoder, sizes);
      check(pair.decoder, decoder.front(), sizes);
      plan.prepare(memory.host());
      memory.upload({0, plan.shared_bytes()}, stream);
    }

    static void check(const GraphSpec& graph, const Places& places, const Sizes& sizes) {
      for (const TensorSpec& spec : graph.inputs) address_of(places, spec, sizes);
      for (const TensorSpec& spec : graph.outputs) address_of(places, spec, sizes);
    }

    void write(const cv::Mat& image, int min_words, const std::vector<float>& bias) {
      const std::size_t row = image.elemSize() * image.cols;
      for (int y = 0; y < image.rows; ++y) std::memcpy(plan.image(memory.host()) + y * row, image.ptr(y), row);
      *plan.min_words(memory.host()) = min_words;
      std::copy(bias.begin(), bias.end(), plan.bias(memory.host()));
    }

    const int beams;
    Plan plan;
    GpuMemory memory;
    Places encoder;
    std::vector<Places> decoder;  // of each step
    Recorder recorder;
  };

  // A search that failed on the GPU is given up: another one can begin.
  template <class Work>
  void give_up_if_it_fails(Work work) {
    try {
      const OnGpu on_gpu;
      work();
    } catch (...) {
      batch_ = nullptr;
      throw;
    }
  }

  std::unique_ptr<Engine> open(const GraphSpec& graph, const std::string& name, int key_beams, int beams) const {
    const EngineKey key{graph_sha256(bundle_.manifest, graph), gpu_.tensorrt, gpu_.name, gpu_.compute_capability,
                        precision_, name, 1, key_beams};
    return std::make_unique<Engine>(read_engine(bundle_.path, key), graph, bundle_.manifest.sizes(beams));
  }

  Engine& decoder_for(int beams) {
    const auto refused = refused_.find(beams);
    if (refused != refused_.end()) throw NoEngineError(refused->second);
    auto& engine = decoders_[beams];
    try {
      if (engine == nullptr) engine = open(pair_.decoder, "decoder", beams, beams);
    } catch (const NoEngineError& error) {
      refused_[beams] = error.what();  // asked once: looking for it reads folders
      throw;
    }
    return *engine;
  }

  Batch& batch_for(int beams, int steps) {
    const auto found = std::find_if(batches_.begin(), batches_.end(), [&](const Batch& batch) {
      return batch.beams == beams && batch.plan.steps() == steps;
    });
    if (found != batches_.end()) {
      batches_.splice(batches_.begin(), batches_, found);
    } else {
      if (batches_.size() >= kBatchesKept) batches_.pop_back();
      batches_.emplace_front(bundle_.manifest, pair_, beams, steps, gpu_.integrated, *stream_);
    }
    return batches_.front();
  }

  const Bundle& bundle_;
  const GraphPair& pair_;
  const std::string precision_;
  const GpuInfo gpu_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Engine> encoder_;
  std::map<int, std::unique_ptr<Engine>> decoders_;  // by number of beams
  std::map<int, std::string> refused_;               // why there is none
  std::list<Batch> batches_;                         // the one used last comes first
  Batch* batch_ = nullptr;
  Engine* decoder_ = nullptr;
  int step_ = 0, enqueued_ = 0, fetched_ = 0, interval_ = 1;
};

}  // namespace

std::unique_ptr<Executor> open_tensorrt(const Bundle& bundle, const std::string& precision) {
  return std::make_unique<TensorRTExecutor>(bundle, precision);
}

}  // namespace camscribe::core
