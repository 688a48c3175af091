// Reading files whole, and their sha256.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace camscribe::core {

// The content of a file. Throws std::system_error.
std::string read_file(const std::filesystem::path& path);

// In hexadecimal digits, as a bundle's manifest has it.
std::string sha256_of(std::string_view data);
// The same of a file, block by block. Throws std::system_error.
std::string sha256_of_file(const std::filesystem::path& path);

// $XDG_CACHE_HOME, else ~/.cache; empty where there is neither.
std::filesystem::path user_cache();

}  // namespace camscribe::core
