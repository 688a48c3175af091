// camscribe for C++17: what is in <camscribe/camscribe.h>, with owners, exceptions and containers.
//
// This header is all there is: it is compiled into the program that includes it, and only C passes between the program and
// the library. So neither the compiler nor the standard library of the two need be the same.
#ifndef CAMSCRIBE_HPP
#define CAMSCRIBE_HPP

#include <camscribe/camscribe.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace camscribe {

// Thrown by everything here that can fail. The message is one line: what is wrong, where, what was expected.
class Error : public std::runtime_error {
 public:
  Error(camscribe_status status, const std::string& message) : std::runtime_error(message), status_(status) {}

  // CAMSCRIBE_..._ERROR
  camscribe_status status() const noexcept { return status_; }

 private:
  camscribe_status status_;
};

namespace detail {

inline void check(camscribe_status status) {
  if (status != CAMSCRIBE_OK) throw Error(status, camscribe_last_error());
}

// A struct of the C interface that says its size.
template <class Struct>
Struct sized() {
  Struct made{};
  made.size = sizeof(Struct);
  return made;
}

}  // namespace detail

enum class Format : camscribe_format {
  rgb = CAMSCRIBE_RGB,
  bgr = CAMSCRIBE_BGR,
  grey = CAMSCRIBE_GREY,
  nv12 = CAMSCRIBE_NV12
};

// Pixels that somebody else owns; see camscribe_image.
struct Image {
  const std::uint8_t* data = nullptr;
  int width = 0;
  int height = 0;
  Format format = Format::rgb;
  std::size_t stride = 0;                // bytes from row to row; 0 where rows follow without a gap
  const std::uint8_t* chroma = nullptr;  // NV12 in two pieces
  std::size_t chroma_stride = 0;
};

struct LoadOptions {
  std::string backend = "auto";  // "auto", "cpu", "tensorrt"
  std::string precision;         // empty: the bundle's default on that device
  int threads = 0;               // of a CPU; 0: one per physical core
  std::string onnxruntime;       // file of ONNX Runtime's library; empty: $CAMSCRIBE_ONNXRUNTIME, else the installed one
};

enum class Stop { optimal = CAMSCRIBE_STOP_OPTIMAL, first_k = CAMSCRIBE_STOP_FIRST_K };

// What is left out is as the bundle has it; see camscribe_options.
struct Options {
  std::optional<int> beams;
  std::optional<int> max_words;
  std::optional<int> min_words;
  std::optional<int> nbest;
  std::optional<double> length_penalty;
  std::optional<Stop> stop;
  std::optional<int> poll;
  std::vector<std::string> ban;
};

// One caption of an image.
struct Hypothesis {
  std::string text;
  std::vector<std::string> words;
  std::vector<std::int32_t> tokens;
  std::vector<float> attention;  // [words, rows, columns]: where the model looked for each word; each grid sums to 1
  int rows = 0;
  int columns = 0;
  bool truncated = false;  // max_words came before the end
  double log_prob = 0;     // its end included unless truncated
  double score = 0;        // log_prob / length**length_penalty

  // The grid [rows, columns] of one word.
  const float* attention_of(std::size_t word) const { return attention.data() + word * rows * columns; }
};

// Where the model looked, as fractions of the image. All zeros where there is none.
struct Box {
  float left = 0, top = 0, right = 0, bottom = 0;
};

using Timings = camscribe_timings;
// Its arrays live as long as the caption that it is of.
using Trace = camscribe_trace;
// Its texts live as long as the captioner that it is of.
using Info = camscribe_info;

// What was found for an image: the n best hypotheses, best first, and how they were found. Copies share it.
class Caption {
 public:
  explicit Caption(camscribe_caption* handle) : handle_(handle, camscribe_caption_free) {
    const int count = camscribe_caption_count(handle);
    for (int index = 0; index < count; ++index) hypotheses_.push_back(read(handle, index));
  }

  const std::vector<Hypothesis>& hypotheses() const noexcept { return hypotheses_; }
  const Hypothesis& best() const noexcept { return hypotheses_.front(); }
  const std::string& text() const noexcept { return best().text; }

  Trace trace() const {
    auto trace = detail::sized<Trace>();
    detail::check(camscribe_caption_trace(handle_.get(), &trace));
    return trace;
  }

  // Of each column of the attention's one row, for a model that attends to boxes; empty for others.
  std::vector<Box> boxes() const {
    const float* raw = nullptr;
    std::int32_t count = 0;
    detail::check(camscribe_caption_boxes(handle_.get(), &raw, &count));
    std::vector<Box> made;
    for (std::int32_t index = 0; index < count; ++index, raw += 4) made.push_back({raw[0], raw[1], raw[2], raw[3]});
    return made;
  }

  Timings timings() const {
    auto timings = detail::sized<Timings>();
    detail::check(camscribe_caption_timings(handle_.get(), &timings));
    return timings;
  }

 private:
  static Hypothesis read(const camscribe_caption* handle, int index) {
    auto raw = detail::sized<camscribe_hypothesis>();
    detail::check(camscribe_caption_hypothesis(handle, index, &raw));
    Hypothesis made;
    made.text = raw.text;
    made.words.assign(raw.words, raw.words + raw.word_count);
    made.tokens.assign(raw.tokens, raw.tokens + raw.word_count);
    made.attention.assign(raw.attention, raw.attention + std::size_t(raw.word_count) * raw.rows * raw.columns);
    made.rows = raw.rows;
    made.columns = raw.columns;
    made.truncated = raw.truncated != 0;
    made.log_prob = raw.log_prob;
    made.score = raw.score;
    return made;
  }

  std::shared_ptr<camscribe_caption> handle_;
  std::vector<Hypothesis> hypotheses_;
};

// A loaded bundle, ready to caption. Any number of threads may call caption() of one captioner.
class Captioner {
 public:
  // Loads a bundle: a folder written by `camscribe export`.
  explicit Captioner(const std::string& bundle, const LoadOptions& options = {}) : handle_(nullptr, free_handle) {
    auto raw = detail::sized<camscribe_load_options>();
    raw.backend = options.backend.c_str();
    raw.precision = options.precision.empty() ? nullptr : options.precision.c_str();
    raw.threads = options.threads;
    raw.onnxruntime = options.onnxruntime.empty() ? nullptr : options.onnxruntime.c_str();
    camscribe_captioner* handle = nullptr;
    detail::check(camscribe_captioner_load(bundle.c_str(), &raw, &handle));
    handle_.reset(handle);
  }

  // Captions an image, which is not needed afterwards.
  Caption caption(const Image& image, const Options& options = {}) {
    auto raw = detail::sized<camscribe_image>();
    raw.data = image.data;
    raw.format = static_cast<camscribe_format>(image.format);
    raw.width = image.width;
    raw.height = image.height;
    raw.stride = image.stride;
    raw.chroma = image.chroma;
    raw.chroma_stride = image.chroma_stride;
    auto changes = detail::sized<camscribe_options>();
    take(changes, changes.beams, options.beams, CAMSCRIBE_SET_BEAMS);
    take(changes, changes.max_words, options.max_words, CAMSCRIBE_SET_MAX_WORDS);
    take(changes, changes.min_words, options.min_words, CAMSCRIBE_SET_MIN_WORDS);
    take(changes, changes.nbest, options.nbest, CAMSCRIBE_SET_NBEST);
    take(changes, changes.length_penalty, options.length_penalty, CAMSCRIBE_SET_LENGTH_PENALTY);
    take(changes, changes.stop, options.stop, CAMSCRIBE_SET_STOP);
    take(changes, changes.poll, options.poll, CAMSCRIBE_SET_POLL);
    std::vector<const char*> ban;
    for (const auto& word : options.ban) ban.push_back(word.c_str());
    changes.ban = ban.data();
    changes.ban_count = ban.size();
    camscribe_caption* caption = nullptr;
    detail::check(camscribe_caption_image(handle_.get(), &raw, &changes, &caption));
    return Caption(caption);
  }

  Info info() const {
    auto info = detail::sized<Info>();
    detail::check(camscribe_captioner_info(handle_.get(), &info));
    return info;
  }

  // The word of an id; nullptr where there is none.
  const char* word(std::int32_t id) const noexcept { return camscribe_captioner_word(handle_.get(), id); }

  // For the C interface; stays owned by this.
  camscribe_captioner* handle() const noexcept { return handle_.get(); }

 private:
  static void free_handle(camscribe_captioner* handle) { camscribe_captioner_free(handle); }

  template <class Member, class Value>
  static void take(camscribe_options& changes, Member& member, const std::optional<Value>& value, std::uint32_t bit) {
    if (!value) return;
    member = static_cast<Member>(*value);
    changes.set |= bit;
  }

  std::unique_ptr<camscribe_captioner, void (*)(camscribe_captioner*)> handle_;
};

}  // namespace camscribe

#endif
