// JSON objects whose members are all required and all known, as in runtime/typed_json.py: every problem is found, not one.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "errors.hpp"

namespace camscribe::core {

using Json = nlohmann::json;

// Whether a text is valid UTF-8.
bool is_utf8(const std::string& text);

// A value as it stands in a message: at most 60 characters.
std::string shortened(const Json& value);

class Object {
 public:
  // value: what should be an object with exactly these members.
  // where: its name in messages.
  // problems: gets one line for each thing that is wrong; what is read is to be used only if it stayed empty.
  Object(const Json& value, std::string where, Problems& problems, std::initializer_list<std::string_view> names);

  std::int32_t integer(const char* name);
  double number(const char* name);
  std::string text(const char* name);
  // One of several texts.
  std::string choice(const char* name, std::initializer_list<std::string_view> choices);
  std::vector<std::string> texts(const char* name);
  // Exactly this many integers.
  std::vector<std::int32_t> integers(const char* name, std::size_t count);
  // An object with members of any name; an empty one if it is none.
  const Json& object(const char* name);
  // A list; an empty one if it is none.
  const Json& list(const char* name);
  // Name of a member in messages.
  std::string where(const char* name) const { return where_ + "." + name; }

 private:
  const Json* find(const char* name) const;
  void wrong(const char* name, const Json& value, const std::string& expected);

  const Json& value_;
  std::string where_;
  Problems& problems_;
};

}  // namespace camscribe::core
