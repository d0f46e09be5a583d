#include "worker/parallel/shared_memory.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"

namespace graft::parallel {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr char kFileName[] = "graft-ranks";
constexpr size_t kNonceBytes = 32;
// Messages that one rank may have under way to another: a step's gradient buckets are tens.
constexpr uint64_t kSlots = 512;
// Addresses for a rank's messages under way; memory is taken as it is used.
constexpr int64_t kBlockBytes = int64_t{16} << 30;
constexpr int64_t kAlignBytes = 64;
// How long a rank looks before it sleeps: longer than waking takes, shorter than anybody minds.
constexpr std::chrono::microseconds kLookFor(60);
constexpr int kLooks = 32;  // between two offers of its core
constexpr timespec kSleep = {0, 100'000'000};

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

void Pause() { __builtin_ia32_pause(); }

// Rung by others when something changed that its rank may wait for.
struct Bell {
  alignas(kAlignBytes) std::atomic<uint32_t> count;
  std::atomic<uint32_t> asleep;

  void Ring() {
    count.fetch_add(1, std::memory_order_seq_cst);
    if (asleep.load(std::memory_order_seq_cst) == 0) return;
    syscall(SYS_futex, &count, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
  void SleepUnless(uint32_t seen_not) {
    syscall(SYS_futex, &count, FUTEX_WAIT, seen_not, &kSleep, nullptr, 0);
  }
};

struct BlockHeader {
  alignas(kAlignBytes) std::atomic<uint32_t> readers;  // who have yet to release it

  char* data() { return reinterpret_cast<char*>(this + 1); }
};

// What names this machine's memory: the same only where a file of another process can be opened.
std::string Host() {
  const auto boot = ReadFile("/proc/sys/kernel/random/boot_id");
  char space[64] = {};
  if (!boot.ok() || readlink("/proc/self/ns/pid", space, sizeof(space) - 1) < 0) return "";
  return absl::StrCat(boot->substr(0, boot->find('\n')), "/", space);
}

}  // namespace

struct SharedMemory::Segment {
  struct Ring {
    alignas(kAlignBytes) std::atomic<uint64_t> head;  // the sender's
    alignas(kAlignBytes) std::atomic<uint64_t> tail;  // the receiver's
    Descriptor slots[kSlots];
  };
  char nonce[kNonceBytes];
  Bell bell;

  // Behind it lie a ring for every rank, then the blocks.
  Ring& RingTo(int64_t rank) { return reinterpret_cast<Ring*>(this + 1)[rank]; }
  static int64_t HeaderBytes(int64_t world) {
    constexpr int64_t kPage = 4096;
    const int64_t bytes =
        static_cast<int64_t>(sizeof(Segment)) + static_cast<int64_t>(sizeof(Ring)) * world;
    return (bytes + kPage - 1) / kPage * kPage;
  }
  static int64_t Bytes(int64_t world) { return HeaderBytes(world) + kBlockBytes; }
  static Segment* Map(int fd, int64_t world) {
    void* at = mmap(nullptr, static_cast<size_t>(Bytes(world)), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE, fd, 0);
    return at == MAP_FAILED ? nullptr : static_cast<Segment*>(at);
  }
  BlockHeader* Block(int64_t offset) {
    return reinterpret_cast<BlockHeader*>(reinterpret_cast<char*>(this) + offset);
  }
};

std::unique_ptr<SharedMemory> SharedMemory::Join(const Options& options, const StorePtr& store) {
  std::unique_ptr<SharedMemory> memory(new SharedMemory(options));
  const auto world = static_cast<size_t>(options.world);
  memory->segments_.resize(world);
  memory->in_.resize(world);
  const auto share = [&](const std::string& key, const std::string& own) {
    store->set(absl::StrCat(key, options.rank), std::vector<uint8_t>(own.begin(), own.end()));
    std::vector<std::string> texts;
    for (int64_t r = 0; r < options.world; ++r) {
      const std::vector<uint8_t> bytes = store->get(absl::StrCat(key, r));
      texts.emplace_back(bytes.begin(), bytes.end());
    }
    return texts;
  };
  const std::vector<std::string> offers = share("shared memory/offer/", memory->Offer());
  std::string reached;
  for (int64_t r = 0; r < options.world; ++r) {
    memory->Open(offers[static_cast<size_t>(r)], r);
    reached.push_back(memory->segments_[static_cast<size_t>(r)] == nullptr ? '0' : '1');
  }
  memory->reached_ = share("shared memory/reached/", reached);
  // The others have it open, or never will.
  if (memory->fd_ >= 0) close(std::exchange(memory->fd_, -1));
  return memory;
}

SharedMemory::~SharedMemory() {
  if (fd_ >= 0) close(fd_);
  for (Segment* segment : segments_) {
    if (segment != nullptr) munmap(segment, static_cast<size_t>(Segment::Bytes(options_.world)));
  }
}

// "host pid fd nonce", or nothing.
std::string SharedMemory::Offer() {
  const std::string host = Host();
  if (!options_.offer || host.empty()) return "";
  fd_ = static_cast<int>(syscall(SYS_memfd_create, kFileName, 1u /* close on exec */));
  if (fd_ < 0 || ftruncate(fd_, Segment::Bytes(options_.world)) != 0) return "";
  own_ = Segment::Map(fd_, options_.world);
  if (own_ == nullptr) return "";
  segments_[static_cast<size_t>(options_.rank)] = own_;
  free_[Segment::HeaderBytes(options_.world)] = kBlockBytes;
  const std::string nonce = SecureRandom().Bytes(kNonceBytes);
  std::memcpy(own_->nonce, nonce.data(), kNonceBytes);
  return absl::StrCat(host, " ", getpid(), " ", fd_, " ", ToHex(nonce));
}

// Leaves segments_[rank] empty where it cannot be reached.
void SharedMemory::Open(const std::string& offer, int64_t rank) {
  const std::vector<std::string> parts = absl::StrSplit(offer, ' ');
  if (own_ == nullptr || rank == options_.rank || parts.size() != 4 || parts[0] != Host()) return;
  const std::string path = absl::StrCat("/proc/", parts[1], "/fd/", parts[2]);
  char target[64] = {};
  if (readlink(path.c_str(), target, sizeof(target) - 1) < 0 ||
      !absl::StrContains(target, kFileName)) {
    return;
  }
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  Segment* segment = Segment::Map(fd, options_.world);
  close(fd);
  if (segment == nullptr) return;
  if (ToHex(absl::string_view(segment->nonce, kNonceBytes)) != parts[3]) {
    munmap(segment, static_cast<size_t>(Segment::Bytes(options_.world)));
    return;
  }
  segments_[static_cast<size_t>(rank)] = segment;
}

bool SharedMemory::Reaches(const Ranks& ranks) const {
  for (const int64_t from : ranks) {
    for (const int64_t to : ranks) {
      if (reached_[static_cast<size_t>(from)][static_cast<size_t>(to)] != '1') return false;
    }
  }
  return true;
}

template <typename F>
void SharedMemory::Await(const F& ready, const std::string& what) {
  const auto start = SteadyClock::now();
  do {
    for (int i = 0; i < kLooks; ++i) {
      if (ready()) return;
      Pause();
    }
    sched_yield();
  } while (SteadyClock::now() - start < kLookFor);
  Bell& bell = own_->bell;
  while (true) {
    const uint32_t seen = bell.count.load(std::memory_order_seq_cst);
    bell.asleep.store(1, std::memory_order_seq_cst);
    // Rings that this rank does not wait for must not fill up meanwhile.
    for (int64_t r = 0; r < options_.world; ++r) Drain(r);
    const bool done = ready();
    if (!done) bell.SleepUnless(seen);
    bell.asleep.store(0, std::memory_order_seq_cst);
    if (done || ready()) return;
    TORCH_CHECK(SteadyClock::now() - start < options_.timeout, "no ", what, " within ",
                options_.timeout.count() / 1000, " s");
  }
}

void SharedMemory::Drain(int64_t from) {
  Segment* sender = segments_[static_cast<size_t>(from)];
  if (sender == nullptr || from == options_.rank) return;
  Segment::Ring& ring = sender->RingTo(options_.rank);
  uint64_t tail = ring.tail.load(std::memory_order_relaxed);
  const uint64_t head = ring.head.load(std::memory_order_acquire);
  if (tail == head) return;
  for (; tail != head; ++tail) {
    in_[static_cast<size_t>(from)].push_back(ring.slots[tail % kSlots]);
  }
  ring.tail.store(tail, std::memory_order_release);
  sender->bell.Ring();
}

bool SharedMemory::Find(int64_t from, const Kind& kind, Message* message) {
  Drain(from);
  std::deque<Descriptor>& in = in_[static_cast<size_t>(from)];
  const auto found = std::find_if(in.begin(), in.end(), [&](const Descriptor& d) {
    return d.channel == kind.channel && d.tag == kind.tag && d.number == kind.number;
  });
  if (found == in.end()) return false;
  BlockHeader* block = segments_[static_cast<size_t>(from)]->Block(found->offset);
  *message = {block->data(), found->bytes, from, found->offset};
  in.erase(found);
  return true;
}

SharedMemory::Message SharedMemory::Take(int64_t from, const Kind& kind) {
  Message message;
  Await([&] { return Find(from, kind, &message); }, absl::StrCat("message from rank ", from));
  return message;
}

void SharedMemory::Release(const Message& message) {
  Segment* sender = segments_[static_cast<size_t>(message.from)];
  if (sender->Block(message.offset)->readers.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    sender->bell.Ring();
  }
}

void SharedMemory::Reclaim() {
  const auto done = std::partition(under_way_.begin(), under_way_.end(), [&](const auto& block) {
    return own_->Block(block.first)->readers.load(std::memory_order_acquire) > 0;
  });
  for (auto block = done; block != under_way_.end(); ++block) {
    auto next = free_.upper_bound(block->first);
    auto [begin, bytes] = *block;
    if (next != free_.end() && begin + bytes == next->first) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) {
        before->second += bytes;
        continue;
      }
    }
    free_[begin] = bytes;
  }
  under_way_.erase(done, under_way_.end());
}

int64_t SharedMemory::BytesUnderWay() {
  if (own_ == nullptr) return 0;
  Reclaim();
  int64_t sum = 0;
  for (const auto& block : under_way_) sum += block.second;
  return sum;
}

// The lowest place that is large enough: memory that was used before is still in the caches.
int64_t SharedMemory::Allocate(int64_t bytes) {
  TORCH_CHECK(bytes <= kBlockBytes, "a message of ", bytes, " bytes; at most ", kBlockBytes);
  int64_t offset = 0;
  const auto try_once = [&] {
    Reclaim();
    const auto place = std::find_if(free_.begin(), free_.end(),
                                    [&](const auto& range) { return range.second >= bytes; });
    if (place == free_.end()) return false;
    offset = place->first;
    const int64_t left = place->second - bytes;
    free_.erase(place);
    if (left > 0) free_[offset + bytes] = left;
    return true;
  };
  Await(try_once, "room for a message");
  under_way_.emplace_back(offset, bytes);
  return offset;
}

void SharedMemory::Post(const at::Tensor& x, const std::vector<std::pair<int64_t, Kind>>& to) {
  const auto bytes = static_cast<int64_t>(x.nbytes());
  const int64_t offset = Allocate(static_cast<int64_t>(sizeof(BlockHeader)) + Aligned(bytes));
  BlockHeader* block = own_->Block(offset);
  block->readers.store(static_cast<uint32_t>(to.size()), std::memory_order_relaxed);
  if (bytes > 0) std::memcpy(block->data(), x.const_data_ptr(), static_cast<size_t>(bytes));
  for (const auto& [destination, kind] : to) {
    const int64_t rank = destination;
    Segment::Ring& ring = own_->RingTo(rank);
    const uint64_t head = ring.head.load(std::memory_order_relaxed);
    Await([&] { return head - ring.tail.load(std::memory_order_acquire) < kSlots; },
          absl::StrCat("room in the ring to rank ", rank));
    ring.slots[head % kSlots] = {offset, bytes, kind.number, kind.channel, kind.tag};
    ring.head.store(head + 1, std::memory_order_release);
    segments_[static_cast<size_t>(rank)]->bell.Ring();
  }
}

// A group's messages. A transfer is what is left to do when a message is there: to read it. Which
// message it is for is settled when it is started, so transfers may be waited for in any order.
class SharedTransport final : public Transport {
 public:
  SharedTransport(SharedMemory& memory, Ranks ranks, int64_t index, int32_t channel)
      : memory_(memory), ranks_(std::move(ranks)), index_(index), channel_(channel) {}

  void Send(const at::Tensor& x, const std::vector<int64_t>& to, int tag, Transfers&) override {
    std::vector<std::pair<int64_t, SharedMemory::Kind>> addressed;
    for (const int64_t member : to) {
      addressed.emplace_back(RankOf(member),
                             SharedMemory::Kind{channel_, tag, sent_[{member, tag}]++});
    }
    memory_.Post(x, addressed);
  }
  void Receive(at::Tensor into, int64_t from, int tag, Transfers& started) override {
    started.push_back(std::make_unique<Copy>(memory_, Next(from, tag), std::move(into)));
  }
  void ReceiveSum(at::Tensor out, at::Tensor own, int tag, Transfers& started) override {
    std::vector<Expected> others;
    for (int64_t member = 0; member < static_cast<int64_t>(ranks_.size()); ++member) {
      if (member != index_) others.push_back(Next(member, tag));
    }
    started.push_back(
        std::make_unique<Sum>(memory_, std::move(others), index_, std::move(out), std::move(own)));
  }

 private:
  struct Expected {
    int64_t from;  // a rank
    SharedMemory::Kind kind;
  };

  // A message of `like`'s size, seen where it lies until it is released.
  struct View {
    View(SharedMemory& shared, const Expected& expected, const at::Tensor& like)
        : memory(shared), message(shared.Take(expected.from, expected.kind)) {
      TORCH_CHECK(message.bytes == static_cast<int64_t>(like.nbytes()), "a message of ",
                  message.bytes, " bytes where ", like.nbytes(), " were expected");
    }
    ~View() { memory.Release(message); }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    SharedMemory& memory;
    const SharedMemory::Message message;
  };

  class Copy final : public Transfer {
   public:
    Copy(SharedMemory& memory, const Expected& expected, at::Tensor into)
        : memory_(memory), expected_(expected), into_(std::move(into)) {}
    void Wait() override {
      const View view(memory_, expected_, into_);
      if (into_.nbytes() > 0) {
        std::memcpy(into_.mutable_data_ptr(), view.message.data, into_.nbytes());
      }
    }

   private:
    SharedMemory& memory_;
    const Expected expected_;
    at::Tensor into_;
  };

  class Sum final : public Transfer {
   public:
    Sum(SharedMemory& memory, std::vector<Expected> others, int64_t index, at::Tensor out,
        at::Tensor own)
        : memory_(memory),
          others_(std::move(others)),
          index_(index),
          out_(std::move(out)),
          own_(std::move(own)) {}
    void Wait() override {
      std::vector<std::unique_ptr<View>> views;
      std::vector<at::Tensor> pieces;
      for (const Expected& expected : others_) {
        views.push_back(std::make_unique<View>(memory_, expected, own_));
        pieces.push_back(at::from_blob(const_cast<void*>(views.back()->message.data), own_.sizes(),
                                       own_.options()));
      }
      pieces.insert(pieces.begin() + index_, own_);
      SumInOrder(pieces, index_, out_);
    }

   private:
    SharedMemory& memory_;
    const std::vector<Expected> others_;
    const int64_t index_;
    at::Tensor out_, own_;
  };

  int64_t RankOf(int64_t member) const { return ranks_[static_cast<size_t>(member)]; }
  Expected Next(int64_t from, int tag) {
    return {RankOf(from), {channel_, tag, received_[{from, tag}]++}};
  }

  SharedMemory& memory_;
  const Ranks ranks_;
  const int64_t index_;
  const int32_t channel_;
  // How many messages of a tag went to, and are expected from, a member.
  std::map<std::pair<int64_t, int>, int64_t> sent_, received_;
};

std::unique_ptr<Transport> SharedMemory::MakeTransport(const Ranks& ranks, int64_t index,
                                                       int32_t channel) {
  GRAFT_CHECK(Reaches(ranks)) << RanksText(ranks);
  return std::make_unique<SharedTransport>(*this, ranks, index, channel);
}

}  // namespace graft::parallel
