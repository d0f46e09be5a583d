#include "worker/parallel/rendezvous.h"

#include <c10/util/Exception.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "worker/parallel/topology.h"

namespace graft::parallel {
namespace {

std::string ProofKey(int64_t rank) { return absl::StrCat("proof/", rank); }

std::string ProofOf(const RendezvousOptions& o, int64_t rank) {
  return ToHex(HmacSha256(o.secret, absl::StrCat(o.attempt, "/rank/", rank, "/", o.world)));
}

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

absl::Status Missing(const StorePtr& store, const RendezvousOptions& o) {
  Ranks missing;
  for (int64_t rank = 0; rank < o.world; ++rank) {
    if (!store->check({ProofKey(rank)})) missing.push_back(rank);
  }
  return absl::UnavailableError(absl::StrCat("rank ", o.rank, " waited ", o.timeout.count() / 1000,
                                             " s for rank ", RanksText(missing),
                                             " at the rendezvous ", o.address));
}

}  // namespace

absl::StatusOr<StorePtr> Prove(const StorePtr& bare, const RendezvousOptions& o) {
  const std::string prefix = ToHex(HmacSha256(o.secret, o.attempt));
  StorePtr store = c10::make_intrusive<c10d::PrefixStore>(prefix, bare);
  try {
    store->set(ProofKey(o.rank), Bytes(ProofOf(o, o.rank)));
    for (int64_t rank = 0; rank < o.world; ++rank) {
      try {
        store->wait({ProofKey(rank)}, o.timeout);
      } catch (const c10::Error&) {
        return Missing(store, o);
      }
      const std::vector<uint8_t> proof = store->get(ProofKey(rank));
      if (!ConstantTimeEquals(std::string(proof.begin(), proof.end()), ProofOf(o, rank))) {
        return absl::PermissionDeniedError(
            absl::StrCat("rank ", rank, " has no proof of this attempt's secret"));
      }
    }
  } catch (const c10::Error& error) {
    return absl::UnavailableError(
        absl::StrCat("rendezvous ", o.address, ": ", error.what_without_backtrace()));
  }
  return store;
}

absl::StatusOr<StorePtr> Join(const RendezvousOptions& o) {
  const size_t colon = o.address.rfind(':');
  c10d::TCPStoreOptions options;
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(o.address.substr(colon + 1), &port) ||
      port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("parallelism.rendezvous \"", o.address, "\" is no host:port"));
  }
  options.port = static_cast<uint16_t>(port);
  options.isServer = o.rank == 0;
  options.numWorkers = static_cast<size_t>(o.world);
  options.waitWorkers = false;
  options.timeout = o.timeout;
  if (o.rank == 0 && o.listen_fd >= 0) options.masterListenFd = o.listen_fd;
  StorePtr store;
  try {
    store = c10::make_intrusive<c10d::TCPStore>(o.address.substr(0, colon), options);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot reach the rendezvous ", o.address, ": ", error.what()));
  }
  return Prove(store, o);
}

}  // namespace graft::parallel
