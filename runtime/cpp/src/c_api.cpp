// The C interface: checks what comes in, calls the captioner, and lets no exception out.
#include <camscribe/camscribe.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include "captioner.hpp"
#include "errors.hpp"
#include "onnxruntime_library.hpp"

using namespace camscribe::core;  // NOLINT(google-build-using-namespace): this file is the border of that namespace

struct camscribe_captioner {
  camscribe_captioner(const char* path, const LoadOptions& options)
      : captioner(path, options),
        reasons(join(captioner.choice().reasons, "\n")),
        onnxruntime(captioner.choice().backend == "cpu" ? load_onnxruntime("") : "") {}

  Captioner captioner;
  const std::string reasons;
  const std::string onnxruntime;
};

struct camscribe_caption {
  explicit camscribe_caption(Caption made) : caption(std::move(made)) {
    for (const Sentence& sentence : caption.sentences) {
      words.emplace_back();
      for (const std::string& word : sentence.words) words.back().push_back(word.c_str());
    }
  }

  const Caption caption;
  std::vector<std::vector<const char*>> words;  // of each sentence, as C has them
};

namespace {

thread_local std::string last_error;

camscribe_status failed(camscribe_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // not even room for the message
  }
  return status;
}

// Runs the body of a function of the interface.
template <class Body>
camscribe_status guarded(Body body) noexcept {
  try {
    body();
    return CAMSCRIBE_OK;
  } catch (const Error& error) {
    return failed(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return failed(CAMSCRIBE_MEMORY_ERROR, "memory ran out");
  } catch (const std::exception& error) {
    return failed(CAMSCRIBE_INTERNAL_ERROR, error.what());
  } catch (...) {
    return failed(CAMSCRIBE_INTERNAL_ERROR, "an error of unknown kind");
  }
}

template <class Pointer>
void need(Pointer pointer, const char* name) {
  if (pointer == nullptr) throw ArgumentError(std::string(name) + " is a null pointer");
}

void check_size(std::size_t size, std::size_t smallest, const char* name) {
  // More than a page is no version of any struct, but memory that nobody set.
  if (size >= smallest && size <= 4096) return;
  throw ArgumentError(std::string(name) + ".size is " + std::to_string(size) + "; expected sizeof(" + name + ") = " +
                      std::to_string(smallest));
}

// A struct that a caller filled in, of this version's size. What a newer caller has more must be zero.
template <class Struct>
Struct taken(const Struct* given, const char* name) {
  static_assert(std::is_trivially_copyable_v<Struct>);
  Struct copy{};
  if (given == nullptr) return copy;
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof size);
  check_size(size, sizeof(Struct), name);
  std::memcpy(&copy, given, sizeof(Struct));
  const auto* begin = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(begin + sizeof(Struct), begin + size, [](unsigned char byte) { return byte != 0; })) {
    throw ArgumentError(std::string(name) + " has members that this libcamscribe (" CAMSCRIBE_VERSION
                                            ") does not know; use a newer one");
  }
  return copy;
}

// Fills in a struct for a caller; what a newer caller has more becomes zero.
template <class Struct>
void give(Struct made, Struct* out, const char* name) {
  need(out, name);
  std::size_t size = 0;
  std::memcpy(&size, out, sizeof size);
  check_size(size, sizeof(Struct), name);
  made.size = size;
  std::memset(out, 0, size);
  std::memcpy(out, &made, sizeof(Struct));
}

std::string text_or_empty(const char* text) { return text == nullptr ? "" : text; }

LoadOptions load_options(const camscribe_load_options* given) {
  const auto raw = taken(given, "camscribe_load_options");
  LoadOptions options;
  if (raw.backend != nullptr) options.backend = raw.backend;
  options.precision = text_or_empty(raw.precision);
  options.threads = raw.threads;
  options.onnxruntime = text_or_empty(raw.onnxruntime);
  return options;
}

// The bundle's search options with a caller's changes.
SearchOptions search_options(const Bundle& bundle, const camscribe_options* given) {
  SearchOptions options = bundle.manifest.search;
  const auto raw = taken(given, "camscribe_options");
  constexpr std::uint32_t known = 2 * CAMSCRIBE_SET_POLL - 1;
  if ((raw.set & ~known) != 0) {
    throw OptionError("options.set has " + std::to_string(raw.set & ~known) +
                      ", which this libcamscribe (" CAMSCRIBE_VERSION ") does not know");
  }
  const auto take = [&](std::uint32_t bit, auto& option, auto value) {
    if ((raw.set & bit) != 0) option = value;
  };
  take(CAMSCRIBE_SET_BEAMS, options.beams, raw.beams);
  take(CAMSCRIBE_SET_MAX_WORDS, options.max_words, raw.max_words);
  take(CAMSCRIBE_SET_MIN_WORDS, options.min_words, raw.min_words);
  take(CAMSCRIBE_SET_NBEST, options.nbest, raw.nbest);
  take(CAMSCRIBE_SET_LENGTH_PENALTY, options.length_penalty, raw.length_penalty);
  take(CAMSCRIBE_SET_POLL, options.poll, raw.poll);
  if ((raw.set & CAMSCRIBE_SET_STOP) != 0) {
    if (raw.stop != CAMSCRIBE_STOP_OPTIMAL && raw.stop != CAMSCRIBE_STOP_FIRST_K) {
      throw OptionError("stop is " + std::to_string(raw.stop) +
                        "; expected CAMSCRIBE_STOP_OPTIMAL or CAMSCRIBE_STOP_FIRST_K");
    }
    options.stop = raw.stop == CAMSCRIBE_STOP_FIRST_K ? StopRule::first_k : StopRule::optimal;
  }
  if (raw.ban_count != 0) need(raw.ban, "options.ban");
  for (std::size_t index = 0; index < raw.ban_count; ++index) {
    need(raw.ban[index], "a word of options.ban");
    if (!bundle.vocabulary.contains(raw.ban[index])) {
      throw OptionError("ban has '" + one_line(raw.ban[index]) + "', which is not a word of this model");
    }
    options.ban.emplace_back(raw.ban[index]);
  }
  options.check();
  return options;
}

camscribe_info info_of(const camscribe_captioner& handle) {
  const Manifest& manifest = handle.captioner.bundle.manifest;
  const Choice& choice = handle.captioner.choice();
  camscribe_info info{};
  info.name = manifest.name.c_str();
  info.backend = choice.backend.c_str();
  info.precision = choice.precision.c_str();
  info.reasons = handle.reasons.c_str();
  info.onnxruntime = handle.onnxruntime.c_str();
  info.vocabulary_size = manifest.vocabulary_size;
  info.width = manifest.pixels.width;
  info.height = manifest.pixels.height;
  info.rows = manifest.rows;
  info.columns = manifest.columns;
  info.beams = manifest.search.beams;
  info.nbest = manifest.search.nbest;
  info.max_words = manifest.search.max_words;
  info.min_words = manifest.search.min_words;
  info.length_penalty = manifest.search.length_penalty;
  return info;
}

}  // namespace

int32_t camscribe_abi_version(void) { return CAMSCRIBE_ABI_VERSION; }

const char* camscribe_version(void) { return CAMSCRIBE_VERSION; }

const char* camscribe_last_error(void) { return last_error.c_str(); }

camscribe_status camscribe_captioner_load(const char* bundle, const camscribe_load_options* options,
                                          camscribe_captioner** captioner) {
  return guarded([&] {
    need(captioner, "captioner");
    *captioner = nullptr;
    need(bundle, "bundle");
    *captioner = std::make_unique<camscribe_captioner>(bundle, load_options(options)).release();
  });
}

void camscribe_captioner_free(camscribe_captioner* captioner) { delete captioner; }

camscribe_status camscribe_captioner_info(const camscribe_captioner* captioner, camscribe_info* info) {
  return guarded([&] {
    need(captioner, "captioner");
    give(info_of(*captioner), info, "camscribe_info");
  });
}

const char* camscribe_captioner_word(const camscribe_captioner* captioner, int32_t id) {
  const std::string* word = captioner == nullptr ? nullptr : captioner->captioner.bundle.vocabulary.word(id);
  return word == nullptr ? nullptr : word->c_str();
}

camscribe_status camscribe_caption_image(camscribe_captioner* captioner, const camscribe_image* image,
                                         const camscribe_options* options, camscribe_caption** caption) {
  return guarded([&] {
    need(caption, "caption");
    *caption = nullptr;
    need(captioner, "captioner");
    need(image, "image");
    const auto changed = search_options(captioner->captioner.bundle, options);
    const auto pixels = taken(image, "camscribe_image");
    *caption = std::make_unique<camscribe_caption>(captioner->captioner.caption(pixels, changed)).release();
  });
}

void camscribe_caption_free(camscribe_caption* caption) { delete caption; }

int32_t camscribe_caption_count(const camscribe_caption* caption) {
  return caption == nullptr ? 0 : int32_t(caption->caption.sentences.size());
}

camscribe_status camscribe_caption_hypothesis(const camscribe_caption* caption, int32_t index,
                                              camscribe_hypothesis* hypothesis) {
  return guarded([&] {
    need(caption, "caption");
    const auto& sentences = caption->caption.sentences;
    if (index < 0 || std::size_t(index) >= sentences.size()) {
      throw ArgumentError("index is " + std::to_string(index) + "; expected 0 to " +
                          std::to_string(sentences.size() - 1));
    }
    const Sentence& sentence = sentences[index];
    const Hypothesis& found = sentence.hypothesis;
    camscribe_hypothesis made{};
    made.text = sentence.text.c_str();
    made.words = caption->words[index].data();
    made.tokens = found.tokens.data();
    made.attention = found.attention.data();
    made.word_count = int32_t(found.tokens.size());
    made.rows = caption->caption.rows;
    made.columns = caption->caption.columns;
    made.truncated = found.truncated ? 1 : 0;
    made.log_prob = found.log_prob;
    made.score = found.score;
    give(made, hypothesis, "camscribe_hypothesis");
  });
}

camscribe_status camscribe_caption_trace(const camscribe_caption* caption, camscribe_trace* trace) {
  return guarded([&] {
    need(caption, "caption");
    const OwnTrace& found = caption->caption.trace;
    camscribe_trace made{};
    made.steps = found.steps;
    made.beams = found.beams;
    made.positions = found.positions;
    made.token = found.token.data();
    made.parent = found.parent.data();
    made.score = found.score.data();
    made.ended_score = found.ended_score.data();
    made.ended_parent = found.ended_parent.data();
    made.attention = found.attention.data();
    give(made, trace, "camscribe_trace");
  });
}

camscribe_status camscribe_caption_boxes(const camscribe_caption* caption, const float** boxes, int32_t* count) {
  return guarded([&] {
    need(boxes, "boxes");
    need(count, "count");
    *boxes = nullptr;
    *count = 0;
    need(caption, "caption");
    const std::vector<float>& found = caption->caption.boxes;
    if (!found.empty()) *boxes = found.data();
    *count = int32_t(found.size() / 4);
  });
}

camscribe_status camscribe_caption_timings(const camscribe_caption* caption, camscribe_timings* timings) {
  return guarded([&] {
    need(caption, "caption");
    const Timings& found = caption->caption.timings;
    give(camscribe_timings{0, found.read_ms, found.reduce_ms, found.encode_ms, found.decode_ms, found.words_ms},
         timings, "camscribe_timings");
  });
}
