// One figure of a benchmark, as a line of JSON.
#pragma once

#include <iostream>
#include <string>

#include "base/json.h"

namespace graft::fileservice {

struct Figure {
  std::string bench;
  std::string metric;
  double value;
  std::string unit;
  double bar;
  std::string peer = "bar";
};

// `value` must not be above the bar.
inline bool PrintAtMost(const Figure& figure) {
  const bool ok = figure.value <= figure.bar;
  std::cout << Json::MakeObject()
                   .Set("bench", figure.bench)
                   .Set("metric", figure.metric)
                   .Set("value", figure.value)
                   .Set("unit", figure.unit)
                   .Set("peer", figure.peer)
                   .Set("peer_value", figure.bar)
                   .Set("ratio", figure.bar == 0 ? 0.0 : figure.value / figure.bar)
                   .Set("bar", figure.bar)
                   .Set("ok", ok)
                   .Dump()
            << std::endl;
  return ok;
}

}  // namespace graft::fileservice
