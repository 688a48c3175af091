#include "manifest.hpp"

#include <algorithm>

#include "interface.hpp"
#include "typed_json.hpp"

namespace camscribe::core {

namespace {

TensorSpecs read_tensors(const Json& list, const std::string& where, Problems& problems) {
  TensorSpecs specs;
  for (const Json& item : list) {
    Object object(item, where + "[" + std::to_string(specs.size()) + "]", problems, {"name", "dtype", "shape"});
    TensorSpec spec{object.text("name"), object.choice("dtype", {"float32", "float16", "int32", "uint8"}), {}};
    for (const Json& size : object.list("shape")) {
      if (size.is_string()) {
        const std::string name = size.get<std::string>();
        spec.shape.emplace_back(name.empty() ? "?" : name);
      } else if (size.is_number_integer() && size.get<double>() >= 1 && size.get<double>() < 1e12) {
        spec.shape.emplace_back(size.get<std::int64_t>());
      } else {
        problems.push_back(object.where("shape") + " has " + shortened(size) + "; expected numbers and names");
      }
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

GraphSpec read_graph(const Json& value, const std::string& where, Problems& problems) {
  Object object(value, where, problems, {"file", "external", "inputs", "outputs"});
  return {object.text("file"), object.texts("external"),
          read_tensors(object.list("inputs"), object.where("inputs"), problems),
          read_tensors(object.list("outputs"), object.where("outputs"), problems)};
}

PixelSpec read_pixels(const Json& value, const std::string& where, Problems& problems) {
  Object object(value, where, problems, {"height", "width", "fit", "filter", "color"});
  PixelSpec spec{object.integer("height"), object.integer("width"), object.choice("fit", {"squash", "crop"}) == "crop"};
  object.choice("filter", {"area"});
  object.choice("color", {"rgb"});
  for (const auto& [name, size] : {std::pair{"height", spec.height}, std::pair{"width", spec.width}}) {
    if (size < 8 || size > 4096) {
      problems.push_back(object.where(name) + " is " + std::to_string(size) + "; expected an integer from 8 to 4096");
    }
  }
  return spec;
}

SearchOptions read_search(const Json& value, const std::string& where, Problems& problems) {
  Object object(value, where, problems,
                {"beams", "max_words", "min_words", "length_penalty", "nbest", "ban", "stop", "poll"});
  const std::size_t before = problems.size();
  SearchOptions search;
  search.beams = object.integer("beams");
  search.max_words = object.integer("max_words");
  search.min_words = object.integer("min_words");
  search.length_penalty = object.number("length_penalty");
  search.nbest = object.integer("nbest");
  search.ban = object.texts("ban");
  search.stop = object.choice("stop", {"optimal", "first_k"}) == "first_k" ? StopRule::first_k : StopRule::optimal;
  search.poll = object.integer("poll");
  try {
    if (problems.size() == before) search.check();
  } catch (const OptionError& error) {
    problems.push_back(where + ": " + error.what());
  }
  return search;
}

std::map<std::string, FileEntry> read_files(const Json& value, const std::string& where, Problems& problems) {
  std::map<std::string, FileEntry> files;
  for (const auto& [name, item] : value.items()) {
    Object object(item, where + "." + name.substr(0, 60), problems, {"bytes", "sha256"});
    const double bytes = object.number("bytes");
    if (item.is_object() && item.value("bytes", Json()).is_number_float()) {
      problems.push_back(object.where("bytes") + " is " + shortened(item["bytes"]) + "; expected an integer");
    }
    files[name] = {bytes > 0 && bytes < 1e18 ? std::uint64_t(bytes) : 0, object.text("sha256")};
  }
  return files;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name != "bundle.json" &&
         name.find_first_of(std::string("/\\:\0", 4)) == std::string::npos;
}

// What is well formed, but cannot be.
void find_contradictions(const Manifest& manifest, Problems& problems) {
  if (manifest.precisions.count("float32") == 0) problems.emplace_back("precisions lacks float32");
  if (manifest.precisions.count(manifest.cpu_precision) == 0) {
    problems.push_back("cpu_precision is '" + manifest.cpu_precision.substr(0, 60) +
                       "', which is not among precisions");
  }
  const auto& tokens = manifest.special_tokens;
  const std::set<std::int32_t> ids{tokens.pad, tokens.start, tokens.end, tokens.unknown};
  if (ids.size() != 4 || *ids.begin() < 0 || *ids.rbegin() >= manifest.vocabulary_size) {
    problems.push_back("special_tokens are " + std::to_string(tokens.pad) + ", " + std::to_string(tokens.start) + ", " +
                       std::to_string(tokens.end) + ", " + std::to_string(tokens.unknown) +
                       "; expected different ids below " + std::to_string(manifest.vocabulary_size));
  }
  if (std::min(manifest.rows, manifest.columns) < 1 || std::max(manifest.rows, manifest.columns) > 4096) {
    problems.push_back("attention_grid is " + std::to_string(manifest.rows) + " x " + std::to_string(manifest.columns) +
                       "; expected rows and columns");
  }
  // A manifest may come from anywhere: it must not reach outside its folder.
  for (const auto& [name, entry] : manifest.files) {
    if (!is_plain_name(name)) problems.push_back("files has '" + name.substr(0, 60) + "'; expected a plain file name");
  }
  std::set<std::string> needed{"vocab.txt"};
  for (const auto& [precision, pair] : manifest.precisions) needed.merge(manifest.files_of(precision));
  for (const auto& name : needed) {
    if (manifest.files.count(name) == 0) problems.push_back("files lacks " + name.substr(0, 60));
  }
  for (const auto& [precision, pair] : manifest.precisions) {
    for (const auto& line : interface_problems(manifest, pair)) {
      problems.push_back("precision " + precision.substr(0, 60) + ": " + line);
    }
    const auto reference = manifest.precisions.find("float32");
    if (reference != manifest.precisions.end() && reference->second.encoder.has_boxes() != pair.encoder.has_boxes()) {
      problems.push_back("precision " + precision.substr(0, 60) + " and float32: only one has an output boxes");
    }
  }
}

Manifest decode(const Json& value, Problems& problems) {
  Object object(value, "manifest", problems,
                {"schema", "kind", "name", "architecture", "vocabulary_size", "special_tokens", "pixels",
                 "attention_grid", "search", "precisions", "cpu_precision", "provenance", "quality", "parity", "files"});
  Manifest manifest;
  object.choice("kind", {"captioner"});
  manifest.name = object.text("name");
  manifest.vocabulary_size = object.integer("vocabulary_size");
  // What only people and other tools read.
  for (const char* name : {"architecture", "provenance", "quality", "parity"}) object.object(name);
  Object tokens(object.object("special_tokens"), object.where("special_tokens"), problems,
                {"pad", "start", "end", "unknown"});
  manifest.special_tokens = {tokens.integer("pad"), tokens.integer("start"), tokens.integer("end"),
                             tokens.integer("unknown")};
  manifest.pixels = read_pixels(object.object("pixels"), object.where("pixels"), problems);
  const auto grid = object.integers("attention_grid", 2);
  manifest.rows = grid[0];
  manifest.columns = grid[1];
  manifest.search = read_search(object.object("search"), object.where("search"), problems);
  for (const auto& [precision, item] : object.object("precisions").items()) {
    const std::string where = object.where("precisions") + "." + precision.substr(0, 60);
    Object pair(item, where, problems, {"encoder", "decoder"});
    manifest.precisions[precision] = {read_graph(pair.object("encoder"), where + ".encoder", problems),
                                      read_graph(pair.object("decoder"), where + ".decoder", problems)};
  }
  manifest.cpu_precision = object.text("cpu_precision");
  manifest.files = read_files(object.object("files"), object.where("files"), problems);
  return manifest;
}

}  // namespace

Sizes Manifest::sizes(int beams) const {
  return {{"B", 1}, {"K", beams}, {"P", std::int64_t(rows) * columns}, {"V", vocabulary_size}};
}

const GraphPair& Manifest::pair(const std::string& precision) const {
  const auto found = precisions.find(precision);
  if (found != precisions.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, pair] : precisions) names.push_back(known);
  throw OptionError("precision is '" + precision + "'; bundle '" + name + "' has " + join(names, ", "));
}

std::set<std::string> Manifest::files_of(const std::string& precision) const {
  std::set<std::string> names;
  const GraphPair& graphs = pair(precision);
  for (const GraphSpec* graph : {&graphs.encoder, &graphs.decoder}) {
    names.insert(graph->file);
    names.insert(graph->external.begin(), graph->external.end());
  }
  return names;
}

Manifest read_manifest(const std::string& text) {
  Json value;
  try {
    value = Json::parse(text);
  } catch (const Json::exception& error) {
    throw BundleError("bundle.json is not valid JSON (" + one_line(error.what()) + ")");
  }
  if (!value.is_object() || !value.contains("schema") || !value["schema"].is_number_integer()) {
    throw BundleError("bundle.json has no schema version; expected a bundle written by camscribe export");
  }
  if (value["schema"] != kSchema) {
    throw BundleError("bundle.json has schema " + value["schema"].dump() + "; this release reads schema " +
                      std::to_string(kSchema) + ": " +
                      (value["schema"] > kSchema ? "upgrade camscribe" : "export the bundle again"));
  }
  Problems problems;
  Manifest manifest = decode(value, problems);
  if (problems.empty()) find_contradictions(manifest, problems);
  if (!problems.empty()) throw BundleError("bundle.json: " + join(problems, "; "));
  return manifest;
}

}  // namespace camscribe::core
