#include "typed_json.hpp"

#include <algorithm>
#include <limits>

namespace camscribe::core {

bool is_utf8(const std::string& text) {
  try {
    Json(text).dump();  // throws on anything else
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

std::string shortened(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

Object::Object(const Json& value, std::string where, Problems& problems,
               std::initializer_list<std::string_view> names)
    : value_(value), where_(std::move(where)), problems_(problems) {
  if (!value.is_object()) {
    problems.push_back(where_ + " is " + shortened(value) + "; expected an object");
    return;
  }
  for (const auto name : names) {
    if (!value.contains(name)) problems.push_back(where_ + "." + std::string(name) + " is missing");
  }
  for (const auto& [name, member] : value.items()) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      problems.push_back(where_ + "." + name.substr(0, 60) + " is unknown");
    }
  }
}

std::int32_t Object::integer(const char* name) {
  const Json* value = find(name);
  if (value == nullptr) return 0;
  using Limits = std::numeric_limits<std::int32_t>;
  const bool fits = value->is_number_unsigned()
                        ? value->get<std::uint64_t>() <= std::uint64_t(Limits::max())
                        : value->is_number_integer() && value->get<std::int64_t>() >= Limits::min();
  if (fits) return value->get<std::int32_t>();
  wrong(name, *value, "an integer");
  return 0;
}

double Object::number(const char* name) {
  const Json* value = find(name);
  if (value == nullptr) return 0;
  if (value->is_number()) return value->get<double>();
  wrong(name, *value, "a number");
  return 0;
}

std::string Object::text(const char* name) {
  const Json* value = find(name);
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  wrong(name, *value, "a text");
  return "";
}

std::string Object::choice(const char* name, std::initializer_list<std::string_view> choices) {
  const Json* value = find(name);
  if (value == nullptr) return "";
  if (value->is_string() && std::find(choices.begin(), choices.end(), value->get<std::string>()) != choices.end()) {
    return value->get<std::string>();
  }
  std::vector<std::string> quoted;
  for (const auto known : choices) quoted.push_back("'" + std::string(known) + "'");
  wrong(name, *value, join(quoted, " or "));
  return "";
}

std::vector<std::string> Object::texts(const char* name) {
  std::vector<std::string> found;
  for (const Json& item : list(name)) {
    if (item.is_string()) {
      found.push_back(item.get<std::string>());
    } else {
      problems_.push_back(where(name) + "[" + std::to_string(found.size()) + "] is " + shortened(item) +
                          "; expected a text");
    }
  }
  return found;
}

std::vector<std::int32_t> Object::integers(const char* name, std::size_t count) {
  const Json& items = list(name);
  std::vector<std::int32_t> found(count);
  if (find(name) != nullptr && items.size() != count) {
    problems_.push_back(where(name) + " has " + std::to_string(items.size()) + " items; expected " +
                        std::to_string(count));
    return found;
  }
  for (std::size_t index = 0; index < items.size(); ++index) {
    if (items[index].is_number_integer() && std::abs(items[index].get<double>()) < 1e9) {
      found[index] = items[index].get<std::int32_t>();
    } else {
      problems_.push_back(where(name) + "[" + std::to_string(index) + "] is " + shortened(items[index]) +
                          "; expected an integer");
    }
  }
  return found;
}

const Json& Object::object(const char* name) {
  static const Json empty = Json::object();
  const Json* value = find(name);
  if (value != nullptr && value->is_object()) return *value;
  if (value != nullptr) wrong(name, *value, "an object");
  return empty;
}

const Json& Object::list(const char* name) {
  static const Json empty = Json::array();
  const Json* value = find(name);
  if (value != nullptr && value->is_array()) return *value;
  if (value != nullptr) wrong(name, *value, "a list");
  return empty;
}

const Json* Object::find(const char* name) const {
  if (!value_.is_object()) return nullptr;
  const auto found = value_.find(name);
  return found == value_.end() ? nullptr : &*found;
}

void Object::wrong(const char* name, const Json& value, const std::string& expected) {
  problems_.push_back(where(name) + " is " + shortened(value) + "; expected " + expected);
}

}  // namespace camscribe::core
