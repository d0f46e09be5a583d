#include "fileservice/service/swarm_tracker.h"

#include <algorithm>
#include <utility>

namespace graft::fileservice {

SwarmTracker::WorkerId SwarmTracker::Join(const std::string& address) {
  const WorkerId id = ++last_id_;
  Worker& worker = workers_[id];
  worker.address = address;
  worker.have = PieceSet(pieces_);
  AddNeighbours(id);
  return id;
}

// Drawn from all who are here; who has come early gets those who come late.
void SwarmTracker::AddNeighbours(WorkerId id) {
  std::vector<WorkerId> others;
  for (const auto& [other, worker] : workers_) {
    if (other == id || workers_[id].neighbours.count(other) > 0) continue;
    if (workers_[id].liars.count(worker.address) > 0 ||
        worker.liars.count(workers_[id].address) > 0) {
      continue;
    }
    others.push_back(other);
  }
  while (!others.empty() && workers_[id].neighbours.size() < options_.neighbours) {
    std::swap(others[random_.Uniform(others.size())], others.back());
    Connect(id, others.back());
    others.pop_back();
  }
}

void SwarmTracker::Connect(WorkerId a, WorkerId b) {
  workers_[a].neighbours.insert(b);
  workers_[b].neighbours.insert(a);
  workers_[a].changed.insert(b);
  workers_[b].changed.insert(a);
}

void SwarmTracker::Disconnect(WorkerId a, WorkerId b) {
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)}) {
    Worker& worker = workers_[one];
    if (worker.neighbours.erase(other) == 0) continue;
    worker.changed.erase(other);
    worker.gone.push_back(workers_[other].address);
  }
}

void SwarmTracker::Leave(WorkerId id) {
  Worker& worker = workers_[id];
  const std::set<WorkerId> neighbours = worker.neighbours;
  for (const WorkerId other : neighbours) Disconnect(id, other);
  for (uint32_t piece = 0; piece < next_; ++piece) {
    if (!worker.have.Has(piece) && worker.from_origin.count(piece) == 0) continue;
    if (--copies_[piece] == 0) lost_.insert(piece);
  }
  workers_.erase(id);
  for (const WorkerId other : neighbours) {
    if (workers_[other].neighbours.size() < options_.neighbours / 2) AddNeighbours(other);
  }
}

void SwarmTracker::Completed(WorkerId id, uint32_t piece) {
  Worker& worker = workers_[id];
  if (piece >= pieces_ || !worker.have.Add(piece)) return;
  // What came from the origin was counted when it was asked for.
  if (worker.from_origin.erase(piece) == 0) ++copies_[piece];
  lost_.erase(piece);
  for (const WorkerId other : worker.neighbours) workers_[other].changed.insert(id);
}

void SwarmTracker::Accuse(WorkerId id, const std::string& address) {
  if (address.empty()) return;
  workers_[id].liars.insert(address);
  std::set<WorkerId>& accusers = accused_[address];
  accusers.insert(id);
  const bool banned = accusers.size() >= options_.accusers;
  std::vector<WorkerId> liars;
  for (const auto& [other, worker] : workers_) {
    if (worker.address == address) liars.push_back(other);
  }
  for (const WorkerId liar : liars) {
    Disconnect(id, liar);
    if (!banned) continue;
    const std::set<WorkerId> all = workers_[liar].neighbours;
    for (const WorkerId other : all) Disconnect(liar, other);
  }
  AddNeighbours(id);
}

void SwarmTracker::AssignFromOrigin(Worker& worker, Plan& plan) {
  const auto assign = [&](uint32_t piece) {
    worker.from_origin.insert(piece);
    plan.from_origin.push_back(piece);
    ++copies_[piece];
    ++origin_pieces_;
  };
  while (worker.from_origin.size() < options_.origin_at_once) {
    if (!lost_.empty()) {
      const uint32_t piece = *lost_.begin();
      lost_.erase(lost_.begin());
      assign(piece);
    } else if (next_ < pieces_) {
      assign(next_++);
    } else {
      return;
    }
  }
}

SwarmTracker::Plan SwarmTracker::PlanFor(WorkerId id) {
  Plan plan;
  Worker& worker = workers_[id];
  AssignFromOrigin(worker, plan);
  for (const WorkerId other : worker.changed) {
    const Worker& peer = workers_[other];
    if (!peer.address.empty()) plan.peers.push_back({peer.address, &peer.have});
  }
  worker.changed.clear();
  plan.gone.swap(worker.gone);
  return plan;
}

const std::set<SwarmTracker::WorkerId>& SwarmTracker::NeighboursOf(WorkerId id) const {
  return workers_.at(id).neighbours;
}

}  // namespace graft::fileservice
