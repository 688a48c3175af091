#include "engine_cache.hpp"

#include <algorithm>
#include <fstream>
#include <optional>
#include <system_error>

#include "files.hpp"
#include "typed_json.hpp"

namespace camscribe::core {

namespace {

namespace fs = std::filesystem;

constexpr const char* kKind = "camscribe sealed file";
constexpr std::size_t kHeaderLimit = 1 << 20;

Json as_json(const EngineKey& key) {
  return {{"onnx_sha256", key.onnx_sha256},
          {"tensorrt", key.tensorrt},
          {"gpu", key.gpu},
          {"compute_capability", key.compute_capability},
          {"precision", key.precision},
          {"graph", key.graph},
          {"images", key.images},
          {"beams", key.beams},
          {"recipe", key.recipe}};
}

std::string text_of(const EngineKey& key) {
  return key.precision + " " + key.graph + ", batch " + std::to_string(key.images) +
         (key.beams != 0 ? ", " + std::to_string(key.beams) + " beams" : "");
}

std::string command(const fs::path& bundle, const EngineKey& key) {
  return "camscribe build " + bundle.string() + " --precision " +
         (key.precision == "float32" ? "fp32" : key.precision) + " --batch " + std::to_string(key.images) +
         (key.beams != 0 ? " --beams " + std::to_string(key.beams) : "");
}

// The first line of a sealed file; nothing where it is not one.
std::optional<Json> header_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string line(kHeaderLimit, '\0');
  file.getline(line.data(), std::streamsize(line.size()));  // leaves the file failed where the line is longer
  if (!file || file.gcount() < 1) return std::nullopt;
  line.resize(std::size_t(file.gcount()) - 1);
  Json header = Json::parse(line, nullptr, false);
  if (!header.is_object() || header.value("kind", Json()) != kKind) return std::nullopt;
  return header;
}

// The content of a sealed file, checked; nothing where it is damaged.
std::optional<std::string> content_of(const fs::path& path, const Json& header) {
  try {
    std::string content = read_file(path);
    content.erase(0, content.find('\n') + 1);
    if (header.value("bytes", Json()) != content.size()) return std::nullopt;
    if (header.value("sha256", Json()) != sha256_of(content)) return std::nullopt;
    return content;
  } catch (const std::system_error&) {
    return std::nullopt;
  }
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code code;
  for (fs::directory_iterator item(folder, code), end; !code && item != end; item.increment(code)) {
    if (item->path().extension() == ".engine") files.push_back(item->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string text(const Json& key, const char* name) {
  const Json value = key.is_object() ? key.value(name, Json()) : Json();
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// In what a key differs from another, told from its side.
std::vector<std::string> differences(const Json& mine, const Json& other) {
  std::vector<std::string> found;
  const auto tell = [&](const char* name, const std::string& said) {
    if (text(mine, name) != text(other, name)) found.push_back(said);
  };
  tell("onnx_sha256", "another export of the graph");
  tell("tensorrt", "TensorRT " + text(mine, "tensorrt"));
  tell("gpu", text(mine, "gpu"));
  tell("compute_capability", "compute capability " + text(mine, "compute_capability"));
  tell("recipe", "another release of camscribe");
  return found;
}

bool does_the_same(const Json& key, const Json& wanted) {
  for (const char* name : {"precision", "graph", "images", "beams"}) {
    if (text(key, name) != text(wanted, name)) return false;
  }
  return true;
}

}  // namespace

std::string graph_sha256(const Manifest& manifest, const GraphSpec& graph) {
  std::vector<std::string> names = graph.external;
  std::sort(names.begin(), names.end());
  names.insert(names.begin(), graph.file);
  std::vector<std::string> digests;
  for (const auto& name : names) digests.push_back(manifest.files.at(name).sha256);
  return digests.size() == 1 ? digests.front() : sha256_of(join(digests, " "));
}

std::vector<fs::path> engine_folders(const fs::path& bundle) {
  const fs::path path = fs::canonical(bundle);
  fs::path beside = path;
  beside += ".engines";
  const fs::path cache = user_cache();
  if (cache.empty()) return {beside};
  std::string name = path.filename().string();
  for (char& letter : name) {
    const auto byte = static_cast<unsigned char>(letter);
    const bool kept = byte >= 0x80 || std::isalnum(byte) != 0 || letter == '_' || letter == '.' || letter == '-';
    if (!kept) letter = '_';
  }
  return {beside, cache / "camscribe" / (name + "-" + sha256_of(path.string()).substr(0, 8) + ".engines")};
}

std::string read_engine(const fs::path& bundle, const EngineKey& key) {
  const Json wanted = as_json(key);
  std::vector<std::string> nearest;
  std::vector<std::string> here;
  std::string damaged;
  for (const fs::path& folder : engine_folders(bundle)) {
    for (const fs::path& path : files_in(folder)) {
      const auto header = header_of(path);
      const Json other = header ? header->value("key", Json()) : Json();
      if (!header || !other.is_object() || !does_the_same(other, wanted)) continue;
      if (other == wanted) {
        if (auto content = content_of(path, *header)) return std::move(*content);
        damaged = path.string() + ": is truncated or altered";
      } else if (auto told = differences(other, wanted); nearest.empty() || told.size() < nearest.size()) {
        nearest = std::move(told);
        here = differences(wanted, other);
      }
    }
  }
  std::string why = "no engine was built here for " + text_of(key);
  if (!damaged.empty()) {
    why = damaged;
  } else if (!nearest.empty()) {
    why = "the engine for " + text_of(key) + " was built for " + join(nearest, ", ") + "; this is " + join(here, ", ");
  }
  throw NoEngineError(why + ": run " + command(bundle, key));
}

}  // namespace camscribe::core
