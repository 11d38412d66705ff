#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

// Tar archives written byte by byte, so that nothing is put right on the way.
namespace sluice::tar {

inline std::string Repeated(size_t n, char c) {
  return std::string(n, c);
}

// A number field: octal if it fits, else base 256.
inline std::string Number(int64_t value, size_t width) {
  std::string field(width, '\0');
  if (value >= 0 && (value >> (3 * (width - 1))) == 0) {
    for (size_t i = width - 1; i-- > 0; value >>= 3) field[i] = static_cast<char>('0' + (value & 7));
    return field;
  }
  const bool negative = value < 0;
  for (size_t i = width; i-- > 0; value >>= 8) field[i] = static_cast<char>(value & 0xff);
  if (!negative) field[0] = static_cast<char>(static_cast<uint8_t>(field[0]) | 0x80);
  return field;
}

inline const std::string kUstar("ustar\00000", 8);
inline const std::string kGnu("ustar  \0", 8);
inline const std::string kV7(8, '\0');

struct Fields {
  std::string name{};
  char type = '0';
  int64_t size = 0;
  int64_t mode = 0644;
  int64_t uid = 0;
  int64_t gid = 0;
  int64_t mtime = 1000000000;
  std::string link{};
  std::string magic = kUstar;
  int64_t major = 0;
  int64_t minor = 0;
  std::string prefix{};
  std::vector<std::pair<size_t, std::string>> raw{};  // put over the rest
};

inline void Put(std::string& block, size_t offset, std::string_view bytes) {
  block.replace(offset, bytes.size(), bytes);
}

inline void PutChecksum(std::string& block) {
  Put(block, 148, Repeated(8, ' '));
  int64_t sum = 0;
  for (const char c : block) sum += static_cast<uint8_t>(c);
  Put(block, 148, Number(sum, 7) + " ");
}

inline std::string Header(const Fields& fields) {
  std::string block(512, '\0');
  Put(block, 0, fields.name.substr(0, 100));
  Put(block, 100, Number(fields.mode, 8));
  Put(block, 108, Number(fields.uid, 8));
  Put(block, 116, Number(fields.gid, 8));
  Put(block, 124, Number(fields.size, 12));
  Put(block, 136, Number(fields.mtime, 12));
  block[156] = fields.type;
  Put(block, 157, fields.link.substr(0, 100));
  Put(block, 257, fields.magic);
  if (fields.magic != kV7) {
    Put(block, 329, Number(fields.major, 8));
    Put(block, 337, Number(fields.minor, 8));
  }
  Put(block, 345, fields.prefix.substr(0, 155));
  for (const auto& [offset, bytes] : fields.raw) Put(block, offset, bytes);
  PutChecksum(block);
  return block;
}

inline std::string Padded(std::string bytes) {
  bytes.resize((bytes.size() + 511) / 512 * 512);
  return bytes;
}

inline const std::string kEnd(1024, '\0');

// An entry with contents; the size is theirs.
inline std::string Entry(Fields fields, const std::string& contents = "") {
  if (fields.size == 0) fields.size = static_cast<int64_t>(contents.size());
  return Header(fields) + Padded(contents);
}

inline std::string File(const std::string& name, const std::string& contents) {
  return Entry({.name = name}, contents);
}

using Records = std::vector<std::pair<std::string, std::string>>;

inline std::string Record(const std::string& key, const std::string& value) {
  const std::string body = " " + key + "=" + value + "\n";
  size_t length = body.size();
  while (std::to_string(length).size() + body.size() != length) {
    length = std::to_string(length).size() + body.size();
  }
  return std::to_string(length) + body;
}

inline std::string PaxBody(const std::string& body, char type = 'x') {
  return Entry({.name = "PaxHeaders/x", .type = type}, body);
}

inline std::string Pax(const Records& records, char type = 'x') {
  std::string body;
  for (const auto& [key, value] : records) body += Record(key, value);
  return PaxBody(body, type);
}

// GNU's long name ('L') or link ('K').
inline std::string Long(char type, const std::string& name) {
  return Entry({.name = "././@LongLink", .type = type, .magic = kGnu}, name + std::string(1, '\0'));
}

}  // namespace sluice::tar
