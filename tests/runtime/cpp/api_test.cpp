// Uses the library as a program does: every case of a file, in one thread and in several, and what is refused.
//
//   api_test CASES.json
//
// CASES.json has a list of groups, each with "bundle", "backend", "precision" and "cases". A case has an image (a file of bytes,
// width, height, format), options, and the hypotheses and boxes that Python found.
#include <camscribe/camscribe.hpp>

#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

using nlohmann::json;

namespace {

void expect(bool good, const std::string& what) {
  if (good) return;
  std::cerr << what << "\n";
  std::exit(1);
}

struct Case {
  std::vector<std::uint8_t> pixels;
  camscribe::Image image;
  camscribe::Options options;
  json expected;
  json boxes;
};

template <class Value>
void take(const json& options, const char* name, std::optional<Value>& value) {
  if (options.contains(name)) value = options.at(name).get<Value>();
}

Case read_case(const json& entry) {
  Case read;
  std::ifstream file(entry.at("file").get<std::string>(), std::ios::binary);
  read.pixels.assign(std::istreambuf_iterator<char>(file), {});
  read.image.width = entry.at("width");
  read.image.height = entry.at("height");
  read.image.format = static_cast<camscribe::Format>(entry.at("format").get<int>());
  const json& options = entry.at("options");
  take(options, "beams", read.options.beams);
  take(options, "max_words", read.options.max_words);
  take(options, "min_words", read.options.min_words);
  take(options, "nbest", read.options.nbest);
  take(options, "length_penalty", read.options.length_penalty);
  take(options, "poll", read.options.poll);
  if (options.contains("stop")) {
    read.options.stop = options.at("stop") == "first_k" ? camscribe::Stop::first_k : camscribe::Stop::optimal;
  }
  if (options.contains("ban")) read.options.ban = options.at("ban").get<std::vector<std::string>>();
  read.expected = entry.at("hypotheses");
  read.boxes = entry.at("boxes");
  return read;
}

void check(camscribe::Captioner& captioner, const Case& given, const std::string& name) {
  camscribe::Image image = given.image;
  image.data = given.pixels.data();
  const camscribe::Caption caption = captioner.caption(image, given.options);
  expect(caption.hypotheses().size() == given.expected.size(), name + ": another number of hypotheses");
  for (std::size_t index = 0; index < given.expected.size(); ++index) {
    const auto& found = caption.hypotheses()[index];
    const json& wanted = given.expected[index];
    const std::string which = name + ", hypothesis " + std::to_string(index) + ": " + found.text;
    expect(found.text == wanted.at("text"), which + "; expected " + wanted.at("text").get<std::string>());
    expect(found.truncated == wanted.at("truncated"), which + ": truncated");
    expect(std::abs(found.log_prob - wanted.at("log_prob").get<double>()) < 1e-4, which + ": log_prob");
    expect(found.attention.size() == found.tokens.size() * found.rows * found.columns, which + ": attention");
    for (std::size_t word = 0; word < found.tokens.size(); ++word) {
      float sum = 0;
      for (int cell = 0; cell < found.rows * found.columns; ++cell) sum += found.attention_of(word)[cell];
      expect(std::abs(sum - 1) < 1e-3, which + ": attention of a word does not sum to 1");
      expect(captioner.word(found.tokens[word]) == found.words[word], which + ": words");
    }
  }
  const std::vector<camscribe::Box> boxes = caption.boxes();
  expect(boxes.size() == given.boxes.size(), name + ": another number of boxes");
  for (std::size_t index = 0; index < boxes.size(); ++index) {
    const camscribe::Box& box = boxes[index];
    const json& wanted = given.boxes[index];
    const float corners[] = {box.left, box.top, box.right, box.bottom};
    for (int side = 0; side < 4; ++side) {
      expect(std::abs(corners[side] - wanted[side].get<float>()) < 1e-4, name + ": box " + std::to_string(index));
    }
  }
  const camscribe::Trace trace = caption.trace();
  expect(trace.steps >= 1 && trace.positions == caption.best().rows * caption.best().columns, name + ": trace");
  for (int number = 0; number < trace.steps * trace.beams; ++number) {
    expect(trace.parent[number] >= 0 && trace.parent[number] < trace.beams, name + ": parents");
  }
  expect(caption.timings().decode_ms > 0, name + ": timings");
}

template <class Work>
void expect_refused(camscribe_status status, const std::string& message, Work work) {
  try {
    work();
  } catch (const camscribe::Error& error) {
    expect(error.status() == status && std::string(error.what()).find(message) != std::string::npos,
           "refused with " + std::to_string(error.status()) + " " + error.what() + "; expected " + message);
    expect(std::string(error.what()).find('\n') == std::string::npos, "a message of more than one line");
    return;
  }
  expect(false, "was not refused; expected " + message);
}

void check_refusals(camscribe::Captioner& captioner, const Case& good) {
  camscribe::Image image = good.image;
  image.data = good.pixels.data();
  const auto with = [&](auto change) {
    return [&captioner, image, change]() mutable {
      camscribe::Options options;
      change(image, options);
      captioner.caption(image, options);
    };
  };
  expect_refused(CAMSCRIBE_BUNDLE_ERROR, "no such bundle folder", [] { camscribe::Captioner("/no/such/folder"); });
  expect_refused(CAMSCRIBE_SOURCE_ERROR, "0 x", with([](auto& image, auto&) { image.width = 0; }));
  expect_refused(CAMSCRIBE_SOURCE_ERROR, "stride of 7 bytes", with([](auto& image, auto&) { image.stride = 7; }));
  expect_refused(CAMSCRIBE_SOURCE_ERROR, "null", with([](auto& image, auto&) { image.data = nullptr; }));
  expect_refused(CAMSCRIBE_OPTION_ERROR, "beams is 65", with([](auto&, auto& options) { options.beams = 65; }));
  expect_refused(CAMSCRIBE_OPTION_ERROR, "not a word", with([](auto&, auto& options) { options.ban = {"xyzzy"}; }));
}

}  // namespace

int main(int count, char** arguments) {
  expect(count == 2, "usage: api_test CASES.json");
  const json groups = json::parse(std::ifstream(arguments[1]));
  int checked = 0;
  for (const json& group : groups) {
    camscribe::LoadOptions load;
    load.backend = group.at("backend");
    load.precision = group.at("precision");
    camscribe::Captioner captioner(group.at("bundle").get<std::string>(), load);
    expect(captioner.info().backend == load.backend, std::string("took backend ") + captioner.info().backend);
    std::vector<Case> cases;
    for (const json& entry : group.at("cases")) cases.push_back(read_case(entry));
    for (std::size_t index = 0; index < cases.size(); ++index) {
      check(captioner, cases[index], load.precision + " case " + std::to_string(index));
      ++checked;
    }
    check_refusals(captioner, cases.front());
    // The same from several threads at once, each in another order.
    std::vector<std::thread> threads;
    for (std::size_t first = 0; first < 3; ++first) {
      threads.emplace_back([&, first] {
        for (std::size_t index = 0; index < std::min<std::size_t>(cases.size(), 6); ++index) {
          const std::size_t which = (first * 2 + index) % cases.size();
          check(captioner, cases[which], "thread " + std::to_string(first) + " case " + std::to_string(which));
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }
  std::cout << checked << " cases as in Python\n";
}
