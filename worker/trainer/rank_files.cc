#include "worker/trainer/rank_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/container/btree_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "worker/model/torch_boundary.h"

namespace graft::trainer {
namespace {

// What is under way of a part at a time, on either side: 4 MiB.
constexpr int64_t kPieceNumbers = int64_t{1} << 20;
// Holds a random name while ranks look whether they see it.
constexpr char kMark[] = ".seen-by-ranks";
constexpr char kParts[] = "parts of a file";
constexpr int kPieceTag = 0;

// A rank's tensors as a text: a name and its shape a line.
std::string ShapesText(const TensorParts& parts) {
  std::string text;
  for (const TensorPart& part : parts) {
    absl::StrAppend(&text, part.name, "\t", absl::StrJoin(part.whole, ","), "\n");
  }
  return text;
}

// Of all ranks, by name.
std::vector<spec::TensorToWrite> Union(const std::vector<std::string>& texts) {
  absl::btree_map<std::string, spec::TensorToWrite> all;
  for (const std::string& text : texts) {
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      const std::pair<absl::string_view, absl::string_view> entry = absl::StrSplit(line, '\t');
      spec::TensorToWrite& tensor = all[std::string(entry.first)];
      tensor.name = std::string(entry.first);
      tensor.shape.clear();
      for (const absl::string_view d : absl::StrSplit(entry.second, ',', absl::SkipEmpty())) {
        int64_t size = 0;
        GRAFT_CHECK(absl::SimpleAtoi(d, &size)) << text;
        tensor.shape.push_back(size);
      }
    }
  }
  std::vector<spec::TensorToWrite> list;
  for (auto& [name, tensor] : all) list.push_back(std::move(tensor));
  return list;
}

absl::Status MakeFile(const std::string& folder, const std::string& stem,
                      const std::vector<spec::TensorToWrite>& tensors) {
  spec::SafetensorsWriterOptions options;
  options.folder = folder;
  options.stem = stem;
  options.max_shard_bytes = int64_t{1} << 60;
  GRAFT_ASSIGN_OR_RETURN(const auto writer, spec::SafetensorsWriter::Create(options, tensors));
  return writer->Finish().status();
}

// By the first rank: the file, and `mark` beside it.
absl::Status MakeMarked(const std::string& folder, const std::string& stem,
                        const std::vector<spec::TensorToWrite>& tensors, const std::string& mark) {
  GRAFT_RETURN_IF_ERROR(MakeFile(folder, stem, tensors));
  return WriteFileAtomically(JoinPath(folder, kMark), mark, {.sync = false});
}

absl::Status RemoveMark(const std::string& folder) {
  const std::string path = JoinPath(folder, kMark);
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path);
}

// The ranks that do not see the first one's folder, by the mark there.
absl::StatusOr<parallel::Ranks> RanksElsewhere(const FileGang& gang, const std::string& key,
                                               const std::string& folder, const std::string& mark) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> marks, Share(gang, key + "/mark", mark));
  const auto seen = ReadFile(JoinPath(folder, kMark));
  const bool sees = seen.ok() && *seen == marks[0];
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                         Share(gang, key + "/sees", sees ? "yes" : "no"));
  parallel::Ranks elsewhere;
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    if (answers[rank] == "no") elsewhere.push_back(static_cast<int64_t>(rank));
  }
  return elsewhere;
}

// A piece travels as three numbers (bytes of its name and shape, runs, numbers), then these. One
// without a name is the last.
void SendPiece(parallel::Group& group, const TensorPart& piece) {
  const std::string shape = piece.name.empty() ? "" : ShapesText({piece});
  const auto runs = static_cast<int64_t>(piece.runs.size());
  const auto bytes = static_cast<int64_t>(shape.size());
  std::vector<at::Tensor> messages = {
      at::tensor({bytes, runs, runs > 0 ? piece.numbers.count() : 0}, at::kLong)};
  if (bytes > 0) {
    at::Tensor text = at::empty({bytes}, at::kByte);
    std::memcpy(text.mutable_data_ptr(), shape.data(), shape.size());
    at::Tensor places = at::empty({runs, 3}, at::kLong);
    int64_t* place = places.mutable_data_ptr<int64_t>();
    for (const TensorPart::Run& run : piece.runs) {
      *place++ = run.begin;
      *place++ = run.whole_begin;
      *place++ = run.count;
    }
    messages.insert(messages.end(), {text, places, piece.numbers.codes});
  }
  std::vector<parallel::Pending> sends;
  for (at::Tensor& message : messages) sends.push_back(group.Send(message, 0, kPieceTag, kParts));
  for (parallel::Pending& send : sends) send.Wait();
}

TensorPart ReceivePiece(parallel::Group& group, int64_t from) {
  const auto receive = [&](at::Tensor into) {
    group.Receive(into, from, kPieceTag, kParts);
    return into;
  };
  const at::Tensor head = receive(at::empty({3}, at::kLong));
  const int64_t* sizes = head.const_data_ptr<int64_t>();
  TensorPart piece;
  if (sizes[0] == 0) return piece;
  const at::Tensor text = receive(at::empty({sizes[0]}, at::kByte));
  const spec::TensorToWrite tensor =
      Union({std::string(static_cast<const char*>(text.const_data_ptr()),
                         static_cast<size_t>(sizes[0]))})
          .at(0);
  piece.name = tensor.name;
  piece.whole = tensor.shape;
  const at::Tensor places = receive(at::empty({sizes[1], 3}, at::kLong));
  const int64_t* place = places.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < sizes[1]; ++i, place += 3) {
    piece.runs.push_back({place[0], place[1], place[2]});
  }
  piece.numbers = {receive(at::empty({sizes[2]}, at::kFloat))};
  return piece;
}

// The runs that it writes one behind the other, cut where a piece is full.
void SendPart(parallel::Group& group, const TensorPart& part) {
  const at::Tensor flat = part.numbers.Wide().view({-1});
  TensorPart piece;
  piece.name = part.name;
  piece.whole = part.whole;
  std::vector<at::Tensor> numbers;
  int64_t filled = 0;
  const auto flush = [&] {
    if (filled == 0) return;
    piece.numbers = {at::cat(numbers)};
    SendPiece(group, piece);
    numbers.clear();
    piece.runs.clear();
    filled = 0;
  };
  for (const TensorPart::Run& run : part.runs) {
    if (!run.writes) continue;
    for (int64_t done = 0; done < run.count;) {
      const int64_t count = std::min(run.count - done, kPieceNumbers - filled);
      numbers.push_back(flat.narrow(0, run.begin + done, count));
      piece.runs.push_back({filled, run.whole_begin + done, count});
      filled += count;
      done += count;
      if (filled == kPieceNumbers) flush();
    }
  }
  flush();
}

// On a rank elsewhere.
absl::Status SendParts(const FileGang& gang, const parallel::Ranks& ranks,
                       const TensorParts& parts) {
  return model::TorchCall("sending parts to the first rank", [&] {
    parallel::Group& group = gang.connect(ranks);
    for (const TensorPart& part : parts) {
      if (part.writes()) SendPart(group, part);
    }
    SendPiece(group, {});
  });
}

// On the first rank: everything that comes goes to `write`.
absl::Status CollectParts(const FileGang& gang, const parallel::Ranks& ranks,
                          const std::function<void(const TensorPart&)>& write) {
  return model::TorchCall("taking parts of other ranks", [&] {
    parallel::Group& group = gang.connect(ranks);
    for (int64_t from = 1; from < group.size(); ++from) {
      for (TensorPart piece = ReceivePiece(group, from); !piece.name.empty();
           piece = ReceivePiece(group, from)) {
        write(piece);
      }
    }
  });
}

// On a rank that sees the file.
absl::Status WriteHere(const FileGang& gang, const std::string& path, const TensorParts& parts,
                       const parallel::Ranks& ranks) {
  const auto file = PartsFile::Open(path);
  absl::Status status = file.status();
  const auto write = [&](const TensorPart& part) {
    if (status.ok() && part.writes()) status = (*file)->Write(part);
  };
  for (const TensorPart& part : parts) write(part);
  // Also where nothing can be written any more: the others wait until all is taken.
  if (gang.rank == 0 && ranks.size() > 1) status.Update(CollectParts(gang, ranks, write));
  if (status.ok()) status = (*file)->Sync();
  return status;
}

}  // namespace

std::string TensorFile(const std::string& folder, const std::string& stem) {
  return JoinPath(folder, absl::StrCat(stem, ".safetensors"));
}

FileGang GangOf(parallel::World* world) {
  FileGang gang;
  if (world == nullptr || world->size() == 1) return gang;
  gang.rank = world->rank();
  gang.world = world->size();
  gang.share = [world](const std::string& key, const std::string& own) {
    return world->Share(key, own);
  };
  gang.connect = [world](const parallel::Ranks& ranks) -> parallel::Group& {
    return world->ForFiles(ranks);
  };
  return gang;
}

absl::StatusOr<std::vector<std::string>> Share(const FileGang& gang, const std::string& key,
                                               const std::string& own) {
  if (gang.world == 1) return std::vector<std::string>{own};
  return gang.share(key, own);
}

absl::Status Agree(const FileGang& gang, const std::string& key, const absl::Status& own) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                         Share(gang, key, std::string(own.message())));
  GRAFT_RETURN_IF_ERROR(own);
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    return absl::AbortedError(absl::StrCat("rank ", rank, ": ", texts[rank]));
  }
  return absl::OkStatus();
}

absl::Status SameOnAll(const FileGang& gang, const std::string& what, int64_t own) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> all, Share(gang, what, absl::StrCat(own)));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(what, " is ", all[0], " on rank 0 and ", all[rank], " on rank ", rank));
  }
  return absl::OkStatus();
}

absl::Status WriteTogether(const FileGang& gang, const std::string& key, const std::string& folder,
                           const std::string& stem, const TensorParts& parts) {
  const std::string prefix = absl::StrCat(key, "/", stem);
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> shapes,
                         Share(gang, prefix + "/shapes", ShapesText(parts)));
  const std::vector<spec::TensorToWrite> tensors = Union(shapes);
  if (tensors.empty()) return absl::OkStatus();
  const bool first = gang.rank == 0;
  const std::string mark = first ? SecureRandom().Id() : "";
  GRAFT_RETURN_IF_ERROR(Agree(gang, prefix + "/made",
                              first ? MakeMarked(folder, stem, tensors, mark) : absl::OkStatus()));
  GRAFT_ASSIGN_OR_RETURN(parallel::Ranks ranks, RanksElsewhere(gang, prefix, folder, mark));
  const bool elsewhere = std::binary_search(ranks.begin(), ranks.end(), gang.rank);
  ranks.insert(ranks.begin(), 0);
  absl::Status status = elsewhere ? SendParts(gang, ranks, parts)
                                  : WriteHere(gang, TensorFile(folder, stem), parts, ranks);
  if (first) status.Update(RemoveMark(folder));
  return Agree(gang, prefix + "/written", status);
}

}  // namespace graft::trainer
