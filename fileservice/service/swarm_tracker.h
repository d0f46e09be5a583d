// Brings together the workers that want or hold one version: who is whose neighbour, and who
// fetches which piece from the origin, so that the origin sends little more than one copy and the
// rest moves between the workers.
//
// The pieces are first scattered (each goes from the origin to one worker), then gathered by all
// from all. The origin sends a piece again only when no one has it or fetches it any more.
//
// Pure: no clock, no lock, no IO. For one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"
#include "fileservice/transfer/piece_set.h"

namespace graft::fileservice {

class SwarmTracker {
 public:
  struct Options {
    // Enough that a random graph is tight: 8 cost 20 % of the time, 20 cost 7 % (simulated).
    size_t neighbours = 20;
    // A worker's fetches from the origin at a time: one is under way while the next is asked for.
    size_t origin_at_once = 2;
    // As many different workers that were lied to ban a liar for all.
    size_t accusers = 2;
  };
  using WorkerId = uint64_t;

  SwarmTracker(uint32_t pieces, Options options, Random& random)
      : pieces_(pieces), options_(options), copies_(pieces), random_(random) {}

  // `address` empty: it serves nobody.
  WorkerId Join(const std::string& address);
  void Leave(WorkerId id);
  void Completed(WorkerId id, uint32_t piece);
  // `id` was sent wrong bytes by `address`: the two are no neighbours any more.
  void Accuse(WorkerId id, const std::string& address);

  struct Peer {
    std::string address;
    const PieceSet* pieces;  // valid until the next call
  };
  // What the worker has to be told since it was told last.
  struct Plan {
    std::vector<Peer> peers;
    std::vector<uint32_t> from_origin;
    std::vector<std::string> gone;
    bool empty() const { return peers.empty() && from_origin.empty() && gone.empty(); }
  };
  Plan PlanFor(WorkerId id);

  const std::set<WorkerId>& NeighboursOf(WorkerId id) const;
  // How often the origin was told to send a piece.
  int64_t origin_pieces() const { return origin_pieces_; }
  bool empty() const { return workers_.empty(); }

 private:
  struct Worker {
    std::string address;
    PieceSet have;
    std::set<uint32_t> from_origin;  // asked for, not yet there
    std::set<WorkerId> neighbours;
    std::set<WorkerId> changed;  // neighbours that have more than it was told
    std::set<std::string> liars;
    std::vector<std::string> gone;
  };
  void Connect(WorkerId a, WorkerId b);
  void Disconnect(WorkerId a, WorkerId b);
  void AddNeighbours(WorkerId id);
  void AssignFromOrigin(Worker& worker, Plan& plan);

  const uint32_t pieces_;
  const Options options_;
  std::map<WorkerId, Worker> workers_;
  std::vector<uint32_t> copies_;  // workers that have the piece or fetch it from the origin
  std::set<uint32_t> lost_;       // were sent once, and nobody has them now
  uint32_t next_ = 0;             // the first that the origin has never sent
  std::map<std::string, std::set<WorkerId>> accused_;
  int64_t origin_pieces_ = 0;
  WorkerId last_id_ = 0;
  Random& random_;
};

}  // namespace graft::fileservice
