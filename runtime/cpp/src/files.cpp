#include "files.hpp"

#include <openssl/evp.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <system_error>
#include <vector>

namespace camscribe::core {

namespace {

// Hands a file over block by block.
void each_block(const std::filesystem::path& path, const std::function<void(std::string_view)>& take) {
  const auto fail = [&] { throw std::system_error(errno, std::generic_category(), path.string()); };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) fail();
  std::vector<char> block(1 << 20);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) take({block.data(), got});
  if (std::ferror(file.get()) != 0) fail();
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (context_ == nullptr || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  }

  void update(std::string_view data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }

  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::string text;
    for (unsigned int index = 0; index < size; ++index) {
      text += "0123456789abcdef"[digest[index] >> 4];
      text += "0123456789abcdef"[digest[index] & 15];
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  std::string content;
  each_block(path, [&](std::string_view block) { content += block; });
  return content;
}

std::string sha256_of(std::string_view data) {
  Sha256 digest;
  digest.update(data);
  return digest.hex();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  Sha256 digest;
  each_block(path, [&](std::string_view block) { digest.update(block); });
  return digest.hex();
}

std::filesystem::path user_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return cache;
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != '\0' ? std::filesystem::path(home) / ".cache" : std::filesystem::path();
}

}  // namespace camscribe::core
