// Filters, page tokens and names from hostile text: refused or understood within bounds.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "graft/v1/job.pb.h"
#include "rpc/filter.h"
#include "rpc/name.h"
#include "rpc/page_token.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace graft;
  const std::string text(reinterpret_cast<const char*>(data), size);
  static const scheduler::ListFields kFields{.filter = {{"name"},
                                                        {"labels"},
                                                        {"status.state"},
                                                        {"create_time"},
                                                        {"resolved_spec.method"},
                                                        {"status.progress.epoch"}}};
  const auto filter = scheduler::ParseFilter(text, kFields, *v1::Job::descriptor());
  if (filter.ok()) {
    v1::Job job;
    job.set_name(text.substr(0, size / 2));
    (*job.mutable_labels())["team"] = text.substr(size / 2);
    (void)scheduler::Matches(*filter, kFields, job);
    (void)scheduler::Matches(*filter, kFields, v1::Job());
  }
  const rpc::PageTokenCodec codec("key");
  const auto token = codec.Decode(text, "query");
  GRAFT_CHECK(!token.ok() || codec.Encode(*token, "query") == text) << "a forged page token";
  const std::string made = codec.Encode({.last_key = text, .revision = 7}, text);
  const auto read = codec.Decode(made, text);
  GRAFT_CHECK(read.ok() && read->last_key == text) << "a page token does not read back";
  for (const char* pattern : {"workspaces/*/jobs/*", "users/*"}) {
    const auto ids = scheduler::ParseName(text, pattern, true);
    if (!ids.ok()) continue;
    for (const std::string& id : *ids) GRAFT_CHECK(id.find('/') == std::string::npos) << id;
  }
  (void)rpc::ParseName("workspaces/{w}/filesets/{f}/versions/{v=*}", text);
  return 0;
}
