// Answers questions about what the library hides: one JSON object a line in, one a line out. The tests ask the same of
// Python, whose answers are the definition.
#include <fstream>
#include <iostream>
#include <map>
#include <opencv2/imgproc.hpp>

#include "engine_cache.hpp"
#include "files.hpp"
#include "manifest.hpp"
#include "pixels.hpp"
#include "search.hpp"
#include "threads.hpp"
#include "typed_json.hpp"

using namespace camscribe::core;  // NOLINT

namespace {

PixelSpec spec_of(const Json& question) {
  return {question.at("spec").at("height"), question.at("spec").at("width"), question.at("spec").at("fit") == "crop"};
}

Json ask_resizes(const Json& question) {
  const std::map<int, std::string> names{
      {cv::INTER_AREA, "area"}, {cv::INTER_LINEAR, "linear"}, {cv::INTER_CUBIC, "cubic"}};
  Json answer = Json::array();
  for (const Resize& step : resizes(question.at("height"), question.at("width"), spec_of(question))) {
    answer.push_back({step.height, step.width, names.at(step.filter)});
  }
  return answer;
}

Json ask_box(const Json& question) {
  const Box box = visible_box(question.at("height"), question.at("width"), spec_of(question));
  return {box.top, box.left, box.rows, box.columns};
}

// Reduces an image in a file of bytes, to another file.
Json ask_reduce(const Json& question) {
  const std::string data = read_file(question.at("file").get<std::string>());
  camscribe_image image{};
  image.data = reinterpret_cast<const std::uint8_t*>(data.data());
  image.format = question.at("format");
  image.width = question.at("width");
  image.height = question.at("height");
  const cv::Mat reduced = reduce(as_rgb(image), spec_of(question)).clone();
  std::ofstream(question.at("out").get<std::string>(), std::ios::binary)
      .write(reinterpret_cast<const char*>(reduced.data), std::streamsize(reduced.total() * reduced.elemSize()));
  return {reduced.rows, reduced.cols};
}

SearchOptions options_of(const Json& value) {
  SearchOptions options;
  options.beams = value.at("beams");
  options.max_words = value.at("max_words");
  options.min_words = value.at("min_words");
  options.length_penalty = value.at("length_penalty");
  options.nbest = value.at("nbest");
  options.stop = value.at("stop") == "first_k" ? StopRule::first_k : StopRule::optimal;
  options.poll = value.at("poll");
  return options;
}

Json ask_options(const Json& question) {
  options_of(question.at("options")).check();
  return true;
}

Json ask_hypotheses(const Json& question) {
  const auto integers = [&](const char* name) { return question.at(name).get<std::vector<std::int32_t>>(); };
  const auto numbers = [&](const char* name) { return question.at(name).get<std::vector<float>>(); };
  const auto token = integers("token"), parent = integers("parent"), ended_parent = integers("ended_parent");
  const auto score = numbers("score"), ended_score = numbers("ended_score"), attention = numbers("attention");
  const SearchOptions options = options_of(question.at("options"));
  const std::size_t beams = options.beams;
  Trace trace;
  trace.steps = question.at("steps");
  trace.beams = options.beams;
  trace.positions = question.at("positions");
  trace.token = {token.data(), beams};
  trace.parent = {parent.data(), beams};
  trace.score = {score.data(), beams};
  trace.ended_score = {ended_score.data(), beams};
  trace.ended_parent = {ended_parent.data(), beams};
  trace.attention = {attention.data(), beams * trace.positions};
  StopState state(options);
  Json answer = Json::array();
  for (const Hypothesis& found : hypotheses(trace, options, state)) {
    answer.push_back({{"tokens", found.tokens},
                      {"log_prob", found.log_prob},
                      {"score", found.score},
                      {"truncated", found.truncated},
                      {"attention", found.attention}});
  }
  return {{"hypotheses", answer}, {"steps", state.steps()}};
}

Json ask_engine(const Json& question) {
  const Json& key = question.at("key");
  return sha256_of(read_engine(question.at("bundle").get<std::string>(),
                               {key.at("onnx_sha256"), key.at("tensorrt"), key.at("gpu"), key.at("compute_capability"),
                                key.at("precision"), key.at("graph"), key.at("images"), key.at("beams"),
                                key.at("recipe")}));
}

Json ask_graph_sha256(const Json& question) {
  const Manifest manifest = read_manifest(read_file(question.at("manifest").get<std::string>()));
  const GraphPair& pair = manifest.pair(question.at("precision"));
  return {graph_sha256(manifest, pair.encoder), graph_sha256(manifest, pair.decoder)};
}

Json ask_manifest(const Json& question) {
  read_manifest(question.at("text"));
  return true;
}

}  // namespace

int main() {
  const std::map<std::string, Json (*)(const Json&)> known{
      {"resizes", ask_resizes},
      {"box", ask_box},
      {"reduce", ask_reduce},
      {"options", ask_options},
      {"hypotheses", ask_hypotheses},
      {"engine", ask_engine},
      {"graph_sha256", ask_graph_sha256},
      {"manifest", ask_manifest},
      {"cores", [](const Json&) { return Json(physical_cores()); }},
  };
  for (std::string line; std::getline(std::cin, line);) {
    Json answer;
    try {
      const Json question = Json::parse(line);
      answer["answer"] = known.at(question.at("ask"))(question);
    } catch (const Error& error) {
      answer["status"] = error.status;
      answer["error"] = error.what();
    }
    std::cout << answer.dump() << std::endl;
  }
}
