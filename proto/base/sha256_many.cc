#include "base/sha256_many.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace graft {
namespace {

constexpr size_t kBlockBytes = 64;

struct Words {
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
};

Sha256Digest DigestOf(const Words& words) {
  Sha256Digest digest;
  for (size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<uint8_t>(words.h[i / 4] >> (24 - 8 * (i % 4)));
  }
  return digest;
}

// The last bytes of a message with their padding: one block or two. Returns how many.
size_t Pad(absl::string_view rest, uint64_t total_bytes, uint8_t* out) {
  std::memset(out, 0, 2 * kBlockBytes);
  if (!rest.empty()) std::memcpy(out, rest.data(), rest.size());
  out[rest.size()] = 0x80;
  const size_t blocks = rest.size() + 9 > kBlockBytes ? 2 : 1;
  for (size_t i = 0; i < 8; ++i) {
    out[blocks * kBlockBytes - 1 - i] = static_cast<uint8_t>((total_bytes * 8) >> (8 * i));
  }
  return blocks;
}

#if defined(__x86_64__)

bool HasShaInstructions() {
  static const bool has = [] {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 29 & 1) != 0 &&
           __builtin_cpu_supports("sse4.1");
  }();
  return has;
}

alignas(16) constexpr uint32_t kRoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// `blocks` blocks of each of kLanes messages. The processor keeps a state as ABEF and CDGH.
template <int kLanes>
__attribute__((target("sha,sse4.1"))) void Compress(Words* const* words, const uint8_t** data,
                                                    size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i abef[kLanes];
  __m128i cdgh[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const auto* h = reinterpret_cast<const __m128i*>(words[l]->h);
    const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(h), 0xB1);
    const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(h + 1), 0x1B);
    abef[l] = _mm_alignr_epi8(cdab, efgh, 8);
    cdgh[l] = _mm_blend_epi16(efgh, cdab, 0xF0);
  }
  for (; blocks > 0; --blocks) {
    __m128i w[kLanes][4];
    __m128i abef_before[kLanes];
    __m128i cdgh_before[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      abef_before[l] = abef[l];
      cdgh_before[l] = cdgh[l];
      for (int i = 0; i < 4; ++i) {
        const auto* at = reinterpret_cast<const __m128i*>(data[l]) + i;
        w[l][i] = _mm_shuffle_epi8(_mm_loadu_si128(at), swap);
      }
      data[l] += kBlockBytes;
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {  // four rounds each
      const __m128i k = _mm_load_si128(reinterpret_cast<const __m128i*>(kRoundConstants) + r);
#pragma GCC unroll 4
      for (int l = 0; l < kLanes; ++l) {
        __m128i* v = w[l];
        const __m128i wk = _mm_add_epi32(v[r % 4], k);
        cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], wk);
        abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32(wk, 0x0E));
        if (r >= 12) continue;
        const __m128i seven_back = _mm_alignr_epi8(v[(r + 3) % 4], v[(r + 2) % 4], 4);
        const __m128i sum =
            _mm_add_epi32(_mm_sha256msg1_epu32(v[r % 4], v[(r + 1) % 4]), seven_back);
        v[r % 4] = _mm_sha256msg2_epu32(sum, v[(r + 3) % 4]);
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      abef[l] = _mm_add_epi32(abef[l], abef_before[l]);
      cdgh[l] = _mm_add_epi32(cdgh[l], cdgh_before[l]);
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    auto* h = reinterpret_cast<__m128i*>(words[l]->h);
    const __m128i feba = _mm_shuffle_epi32(abef[l], 0x1B);
    const __m128i dchg = _mm_shuffle_epi32(cdgh[l], 0xB1);
    _mm_storeu_si128(h, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128(h + 1, _mm_alignr_epi8(dchg, feba, 8));
  }
}

#else

bool HasShaInstructions() { return false; }
template <int kLanes>
void Compress(Words* const*, const uint8_t**, size_t) {}

#endif

// As many messages at a time as are worth it: with five the registers are gone.
constexpr int kMaxLanes = 4;

void CompressMany(int lanes, Words* const* words, const uint8_t** data, size_t blocks) {
  switch (lanes) {
    case 1:
      return Compress<1>(words, data, blocks);
    case 2:
      return Compress<2>(words, data, blocks);
    case 3:
      return Compress<3>(words, data, blocks);
    default:
      return Compress<kMaxLanes>(words, data, blocks);
  }
}

void CompressOne(Words& words, const uint8_t* data, size_t blocks) {
  Words* const lane[] = {&words};
  if (blocks > 0) Compress<1>(lane, &data, blocks);
}

// Whole blocks of one message that wait for a lane; then, for a message that ends, its padding.
struct Job {
  Words* words = nullptr;
  const uint8_t* data = nullptr;
  size_t blocks = 0;
  absl::string_view message;       // that ends with this job
  Sha256Digest* digest = nullptr;  // null: the message goes on
};

// One of the things that are hashed at a time.
class Lane {
 public:
  bool busy() const { return blocks_ > 0; }
  Words* words() { return job_.words; }
  const uint8_t** data() { return &data_; }
  size_t blocks() const { return blocks_; }

  void Begin(const Job& job) {
    job_ = job;
    data_ = job.data;
    blocks_ = job.blocks;
    padded_ = false;
    if (job.digest != nullptr) {
      own_ = Words();
      job_.words = &own_;
    }
    if (blocks_ == 0) Next();
  }
  void Did(size_t blocks) {
    blocks_ -= blocks;
    if (blocks_ == 0) Next();
  }

 private:
  void Next() {
    if (job_.digest == nullptr) return;
    if (padded_) {
      *job_.digest = DigestOf(own_);
      return;
    }
    padded_ = true;
    const size_t whole = job_.message.size() / kBlockBytes * kBlockBytes;
    blocks_ = Pad(job_.message.substr(whole), job_.message.size(), padding_);
    data_ = padding_;
  }

  Job job_;
  const uint8_t* data_ = nullptr;
  size_t blocks_ = 0;
  bool padded_ = false;
  Words own_;
  uint8_t padding_[2 * kBlockBytes];
};

// Hashes all jobs, in `lane_count` lanes as long as there are as many. `next_first` gives those of
// the first lane, `next_other` those of the others.
template <typename NextFirst, typename NextOther>
void Run(int lane_count, NextFirst next_first, NextOther next_other) {
  Lane lanes[kMaxLanes];
  const auto fill = [](Lane& lane, auto& next) {
    Job job;
    while (!lane.busy() && next(job)) lane.Begin(job);
    return lane.busy();
  };
  while (true) {
    Lane* busy[kMaxLanes];
    Words* words[kMaxLanes];
    const uint8_t* data[kMaxLanes];
    size_t blocks = SIZE_MAX;
    int count = 0;
    for (int l = 0; l < lane_count; ++l) {
      if (!(l == 0 ? fill(lanes[l], next_first) : fill(lanes[l], next_other))) continue;
      busy[count] = &lanes[l];
      words[count] = lanes[l].words();
      data[count] = *lanes[l].data();
      blocks = std::min(blocks, lanes[l].blocks());
      ++count;
    }
    if (count == 0) return;
    CompressMany(count, words, data, blocks);
    for (int l = 0; l < count; ++l) {
      *busy[l]->data() = data[l];
      busy[l]->Did(blocks);
    }
  }
}

}  // namespace

struct Sha256Stream::State {
  Words words;
  uint8_t rest[kBlockBytes];
  size_t rest_bytes = 0;
  uint64_t total_bytes = 0;
  Sha256 plain;  // in the place of all that, without the instructions

  // Completes the block that was begun and keeps what does not fill one; returns the blocks
  // between.
  absl::string_view Take(absl::string_view bytes) {
    total_bytes += bytes.size();
    if (rest_bytes > 0) {
      const size_t more = std::min(bytes.size(), kBlockBytes - rest_bytes);
      std::memcpy(rest + rest_bytes, bytes.data(), more);
      rest_bytes += more;
      bytes.remove_prefix(more);
      if (rest_bytes < kBlockBytes) return absl::string_view();
      CompressOne(words, rest, 1);
      rest_bytes = 0;
    }
    const absl::string_view whole = bytes.substr(0, bytes.size() / kBlockBytes * kBlockBytes);
    bytes.remove_prefix(whole.size());
    if (!bytes.empty()) std::memcpy(rest, bytes.data(), bytes.size());
    rest_bytes = bytes.size();
    return whole;
  }
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {}
Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;
Sha256Stream& Sha256Stream::operator=(Sha256Stream&&) noexcept = default;

void Sha256Stream::Update(absl::string_view bytes) {
  if (!HasShaInstructions()) return state_->plain.Update(bytes);
  const absl::string_view whole = state_->Take(bytes);
  CompressOne(state_->words, Bytes(whole), whole.size() / kBlockBytes);
}

Sha256Digest Sha256Stream::Finish() {
  if (!HasShaInstructions()) return state_->plain.Finish();
  uint8_t padding[2 * kBlockBytes];
  const absl::string_view rest(reinterpret_cast<const char*>(state_->rest), state_->rest_bytes);
  CompressOne(state_->words, padding, Pad(rest, state_->total_bytes, padding));
  return DigestOf(state_->words);
}

void Sha256Many(absl::Span<const absl::string_view> messages, Sha256Digest* digests,
                Sha256Stream* stream, absl::Span<const absl::string_view> parts) {
  if (!HasShaInstructions()) {
    for (size_t i = 0; i < messages.size(); ++i) digests[i] = Sha256::Of(messages[i]);
    for (const absl::string_view part : parts) stream->Update(part);
    return;
  }
  size_t next = 0;
  const auto next_message = [&](Job& job) {
    if (next == messages.size()) return false;
    job = Job();
    job.message = messages[next];
    job.data = Bytes(messages[next]);
    job.blocks = messages[next].size() / kBlockBytes;
    job.digest = &digests[next++];
    return true;
  };
  size_t next_part = 0;
  // The parts of the stream follow one another in one lane.
  const auto next_of_stream = [&](Job& job) {
    while (next_part < parts.size()) {
      const absl::string_view whole = stream->state_->Take(parts[next_part++]);
      if (whole.empty()) continue;
      job = Job();
      job.words = &stream->state_->words;
      job.data = Bytes(whole);
      job.blocks = whole.size() / kBlockBytes;
      return true;
    }
    return next_message(job);
  };
  // A stream is one chain: more than one message beside it would only keep it waiting.
  Run(parts.empty() ? kMaxLanes : 2, next_of_stream, next_message);
}

}  // namespace graft
