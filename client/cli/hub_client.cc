#include "client/cli/hub_client.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace graft::cli {
namespace {

constexpr const char* kDefaultEndpoint = "https://huggingface.co";
constexpr long kConnectSeconds = 20;
// A transfer that brings less than a kilobyte a second for so long is cut, and gone on with.
constexpr long kStallSeconds = 30, kStallBytes = 1000;
constexpr int kAttempts = 5;
constexpr size_t kMostFiles = 10000;
constexpr size_t kListBytes = 16 << 20;  // largest answer that is no file

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// libcurl, loaded when the first file is fetched: more than twenty libraries stand behind it, which
// every command of the CLI would load.
struct Curl {
  decltype(&curl_easy_init) init = nullptr;
  decltype(&curl_easy_cleanup) cleanup = nullptr;
  decltype(&curl_easy_setopt) setopt = nullptr;
  decltype(&curl_easy_getinfo) getinfo = nullptr;
  decltype(&curl_easy_perform) perform = nullptr;
  decltype(&curl_easy_strerror) strerror = nullptr;
  decltype(&curl_slist_append) append = nullptr;
  decltype(&curl_slist_free_all) free_all = nullptr;

  // Null without the library. Thread-safe.
  static const Curl* Get() {
    static const Curl* curl = Load();
    return curl;
  }

 private:
  static const Curl* Load() {
    void* library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);  // for as long as the process
    if (library == nullptr) return nullptr;
    auto curl = std::make_unique<Curl>();
    const bool whole = Bind(library, "curl_easy_init", curl->init) &&
                       Bind(library, "curl_easy_cleanup", curl->cleanup) &&
                       Bind(library, "curl_easy_setopt", curl->setopt) &&
                       Bind(library, "curl_easy_getinfo", curl->getinfo) &&
                       Bind(library, "curl_easy_perform", curl->perform) &&
                       Bind(library, "curl_easy_strerror", curl->strerror) &&
                       Bind(library, "curl_slist_append", curl->append) &&
                       Bind(library, "curl_slist_free_all", curl->free_all);
    return whole ? curl.release() : nullptr;
  }
  template <typename Function>
  static bool Bind(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
  }
};

// Where an answer goes: into memory, or behind what a file holds.
struct Sink {
  std::string text;
  int fd = -1;
  int64_t start = 0;  // bytes that the file had before
  int64_t got = 0;
  std::string error;
  CURL* transfer = nullptr;
  std::function<void(int64_t, int64_t)> on_progress;
};

size_t Receive(char* data, size_t size, size_t count, void* user) {
  Sink& sink = *static_cast<Sink*>(user);
  const Curl& curl = *Curl::Get();
  const size_t bytes = size * count;
  long code = 0;
  curl.getinfo(sink.transfer, CURLINFO_RESPONSE_CODE, &code);
  if (sink.fd < 0 || code >= 300) {
    if (sink.text.size() + bytes > kListBytes) return 0;
    sink.text.append(data, bytes);
    return bytes;
  }
  // A server that knows no ranges sends everything again.
  if (sink.got == 0 && sink.start > 0 && code == 200) {
    sink.start = 0;
    if (ftruncate(sink.fd, 0) != 0 || lseek(sink.fd, 0, SEEK_SET) != 0) return 0;
  }
  for (size_t written = 0; written < bytes;) {
    const ssize_t now = write(sink.fd, data + written, bytes - written);
    if (now < 0 && errno != EINTR) {
      sink.error = std::string(ErrnoStatus(errno, "cannot write what was downloaded").message());
      return 0;
    }
    written += static_cast<size_t>(std::max<ssize_t>(now, 0));
  }
  sink.got += static_cast<int64_t>(bytes);
  curl_off_t length = -1;
  curl.getinfo(sink.transfer, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  sink.on_progress(sink.start + sink.got, length < 0 ? 0 : sink.start + length);
  return bytes;
}

absl::Status HttpStatus(long code, const std::string& url, bool with_token) {
  switch (code) {
    case 401:
    case 403:
      return absl::PermissionDeniedError(absl::StrCat(
          url, " answers ", code, ": the model is private or gated; ",
          with_token ? "accept its licence on its page, or HF_TOKEN holds a wrong token"
                     : "accept its licence on its page and set HF_TOKEN"));
    case 404:
      return absl::NotFoundError(absl::StrCat(url, " is not there (404); check name and revision"));
    case 416:
      return absl::OutOfRangeError(absl::StrCat(url, " is shorter than what was fetched before"));
    case 429:
      return absl::ResourceExhaustedError(absl::StrCat(url, ": too many requests; try later"));
    default:
      return absl::UnavailableError(absl::StrCat(url, " answers ", code));
  }
}

// One request. What it received before it was cut is in the sink.
absl::Status Get(const std::string& url, const std::string& token, Sink& sink) {
  const Curl* curl = Curl::Get();
  if (curl == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(url, " needs libcurl.so.4, which is not installed (Debian: libcurl4)"));
  }
  const std::unique_ptr<CURL, decltype(curl->cleanup)> transfer(curl->init(), curl->cleanup);
  if (transfer == nullptr) return absl::InternalError("libcurl does not start");
  sink.transfer = transfer.get();
  const auto set = [&](CURLoption option, auto value) {
    curl->setopt(transfer.get(), option, value);
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, 10L);
  set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  set(CURLOPT_LOW_SPEED_LIMIT, kStallBytes);
  set(CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_WRITEFUNCTION, &Receive);
  set(CURLOPT_WRITEDATA, &sink);
  if (sink.start > 0) set(CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(sink.start));
  // Of a redirection to another host libcurl leaves the header out by itself.
  curl_slist* headers = nullptr;
  if (!token.empty()) {
    headers = curl->append(headers, absl::StrCat("Authorization: Bearer ", token).c_str());
  }
  set(CURLOPT_HTTPHEADER, headers);
  const CURLcode code = curl->perform(transfer.get());
  curl->free_all(headers);
  long http = 0;
  curl->getinfo(transfer.get(), CURLINFO_RESPONSE_CODE, &http);
  if (!sink.error.empty()) return absl::ResourceExhaustedError(sink.error);
  if (code != CURLE_OK) {
    return absl::UnavailableError(absl::StrCat(url, ": ", curl->strerror(code)));
  }
  return http >= 300 ? HttpStatus(http, url, !token.empty()) : absl::OkStatus();
}

bool IsCleanName(absl::string_view name) {
  if (name.empty() || name.front() == '/') return false;
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '\\' || c == '?' || c == '#' || c == '%') {
      return false;
    }
  }
  return true;
}

}  // namespace

bool IsHubAddress(absl::string_view text) { return absl::StartsWith(text, "hf://"); }

absl::StatusOr<HubAddress> ParseHubAddress(absl::string_view text) {
  HubAddress address;
  const absl::string_view written = text;
  absl::ConsumePrefix(&text, "hf://");
  const size_t at = text.find('@');
  address.model = std::string(text.substr(0, at));
  if (at != absl::string_view::npos) address.revision = std::string(text.substr(at + 1));
  const std::vector<std::string> parts = absl::StrSplit(address.model, '/');
  if (parts.size() != 2 || !IsCleanName(address.model) || !IsCleanName(address.revision) ||
      absl::StrContains(address.revision, '/')) {
    return absl::InvalidArgumentError(
        absl::StrCat(written, ": expected hf://ORG/NAME or hf://ORG/NAME@REVISION"));
  }
  return address;
}

HubClient::Options HubClient::FromEnvironment() {
  Options options{.endpoint = Environment("GRAFT_HUB"), .token = Environment("HF_TOKEN")};
  if (options.endpoint.empty()) options.endpoint = Environment("HF_ENDPOINT");
  if (options.endpoint.empty()) options.endpoint = kDefaultEndpoint;
  while (absl::EndsWith(options.endpoint, "/")) options.endpoint.pop_back();
  return options;
}

absl::StatusOr<HubModel> HubClient::Describe(const HubAddress& address) const {
  Sink sink;
  GRAFT_RETURN_IF_ERROR(Get(absl::StrCat(options_.endpoint, "/api/models/", address.model,
                                         "/revision/", address.revision),
                            options_.token, sink));
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(sink.text));
  HubModel model{.model = address.model, .revision = json.GetString("sha", address.revision)};
  const Json* files = json.Find("siblings");
  if (files == nullptr || !files->is_array() || files->as_array().size() > kMostFiles) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.endpoint, " does not list the files of ", address.model));
  }
  for (const Json& file : files->as_array()) {
    const std::string name = file.GetString("rfilename");
    if (!IsCleanName(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the hub names a file \"", name, "\", which is not taken"));
    }
    model.files.push_back(name);
  }
  return model;
}

absl::Status HubClient::Fetch(const HubModel& model, const std::string& file,
                              const std::string& path,
                              const std::function<void(int64_t, int64_t)>& on_progress) const {
  if (FileExists(path)) return absl::OkStatus();
  const std::string part = absl::StrCat(path, ".part");
  GRAFT_RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/'))));
  const UniqueFd fd(open(part.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", part));
  const std::string url =
      absl::StrCat(options_.endpoint, "/", model.model, "/resolve/", model.revision, "/", file);
  absl::Status status;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Sink sink;
    sink.fd = fd.get();
    sink.start = lseek(fd.get(), 0, SEEK_END);
    sink.on_progress = on_progress;
    status = Get(url, options_.token, sink);
    if (sink.got > 0) attempt = 0;  // it moves
    if (absl::IsOutOfRange(status) && sink.start > 0 && ftruncate(fd.get(), 0) == 0) continue;
    if (!absl::IsUnavailable(status)) break;
  }
  GRAFT_RETURN_IF_ERROR(status);
  if (rename(part.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", part));
  }
  return absl::OkStatus();
}

}  // namespace graft::cli
