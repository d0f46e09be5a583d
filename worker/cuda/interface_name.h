// Which network interface an address belongs to: NCCL wants the name.
#pragma once

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <string>

namespace graft::cuda {

// Empty where no interface of this host has that IPv4 address.
inline std::string InterfaceOf(const std::string& address) {
  in_addr wanted{};
  ifaddrs* all = nullptr;
  if (inet_pton(AF_INET, address.c_str(), &wanted) != 1 || getifaddrs(&all) != 0) return "";
  std::string name;
  for (const ifaddrs* one = all; one != nullptr && name.empty(); one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    const auto* own = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
    if (own->sin_addr.s_addr == wanted.s_addr) name = one->ifa_name;
  }
  freeifaddrs(all);
  return name;
}

}  // namespace graft::cuda
