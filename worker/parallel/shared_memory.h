// Messages between the ranks of one host through memory that they share. A message is copied once,
// into its sender's memory; every rank that it is for reads it there. Nothing stands between but a
// ring of descriptors for each pair: no thread, and no system call unless somebody sleeps. A rank
// that waits looks for a moment, giving its core away where others want it, then sleeps until its
// bell is rung.
//
// Each rank has one anonymous file: a header with its bell, a ring to every other rank, then blocks
// of messages. The others open it through /proc, which the same user in the same process namespace
// may; whether each pair could is agreed upon through the store, and groups in which it could not
// go over Gloo.
//
// Life cycle: joined by every rank before its groups are made; outlives their transports. One
// thread drives it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/parallel/rendezvous.h"
#include "worker/parallel/topology.h"
#include "worker/parallel/transport.h"

namespace graft::parallel {

class SharedMemory {
 public:
  struct Options {
    int64_t rank = 0;
    int64_t world = 1;
    bool offer = true;  // false: this rank has none, whatever its host could do
    std::chrono::milliseconds timeout = std::chrono::minutes(30);  // of a wait
  };
  // Every rank calls it. Throws c10::Error when the store is lost.
  static std::unique_ptr<SharedMemory> Join(const Options& options, const StorePtr& store);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Whether each of `ranks` reaches all others of them. The same answer on every rank.
  bool Reaches(const Ranks& ranks) const;

  // Messages of one group are told from those of others by `channel`, alike on its members.
  // `index` is this rank's among `ranks`.
  std::unique_ptr<Transport> MakeTransport(const Ranks& ranks, int64_t index, int32_t channel);

  // Bytes of its own memory that messages which nobody has read yet take.
  int64_t BytesUnderWay();

 private:
  friend class SharedTransport;
  struct Segment;  // what lies in the memory of a rank
  struct Descriptor {
    int64_t offset = 0;  // of the block, in its sender's segment
    int64_t bytes = 0;
    int64_t number = 0;  // of its kind from this sender to this receiver
    int32_t channel = 0;
    int32_t tag = 0;
  };
  // Which message of which kind.
  struct Kind {
    int32_t channel = 0;
    int32_t tag = 0;
    int64_t number = 0;
  };
  struct Message {
    const void* data = nullptr;
    int64_t bytes = 0;
    int64_t from = 0;
    int64_t offset = 0;
  };

  explicit SharedMemory(const Options& options) : options_(options) {}
  std::string Offer();
  void Open(const std::string& offer, int64_t rank);
  void Agree(const StorePtr& store);

  void Post(const at::Tensor& x, const std::vector<std::pair<int64_t, Kind>>& to);
  Message Take(int64_t from, const Kind& kind);
  void Release(const Message& message);

  int64_t Allocate(int64_t bytes);
  void Reclaim();
  void Drain(int64_t from);
  bool Find(int64_t from, const Kind& kind, Message* message);
  // Until `ready()`; `what` is what it would take.
  template <typename F>
  void Await(const F& ready, const std::string& what);

  const Options options_;
  Segment* own_ = nullptr;
  int fd_ = -1;
  std::vector<Segment*> segments_;          // by rank; nullptr where it cannot be reached
  std::vector<std::string> reached_;        // by rank: a '1' for every rank that it reaches
  std::vector<std::deque<Descriptor>> in_;  // by sender: arrived, not yet taken
  std::map<int64_t, int64_t> free_;         // of the own blocks' memory: begin -> bytes
  std::vector<std::pair<int64_t, int64_t>> under_way_;  // own blocks: begin, bytes
};

}  // namespace graft::parallel
