// graft.v1.FileSetService: names of things. The rules live in the catalog; here messages become
// records and back.
//
// Thread-safe; the catalog must outlive it.
#pragma once

#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/service/list_filter.h"
#include "google/protobuf/empty.pb.h"
#include "graft/v1/fileset.pb.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "rpc/call.h"
#include "rpc/service.h"

namespace graft::fileservice {

class FileSetService {
 public:
  struct Options {
    // Folders below which RegisterInPlace may register; none: it is refused.
    std::vector<std::string> in_place_roots;
  };
  FileSetService(Catalog& catalog, Options options)
      : catalog_(catalog), options_(std::move(options)) {}
  rpc::Service Bind();

  absl::StatusOr<v1::FileSet> CreateFileSet(const rpc::Call&, const v1::CreateFileSetRequest&);
  absl::StatusOr<v1::FileSet> GetFileSet(const rpc::Call&, const v1::GetFileSetRequest&);
  absl::StatusOr<v1::ListFileSetsResponse> ListFileSets(const rpc::Call&,
                                                        const v1::ListFileSetsRequest&);
  absl::StatusOr<v1::FileSet> UpdateFileSet(const rpc::Call&, const v1::UpdateFileSetRequest&);
  absl::StatusOr<v1::FileSet> RenameFileSet(const rpc::Call&, const v1::RenameFileSetRequest&);
  absl::StatusOr<google::protobuf::Empty> DeleteFileSet(const rpc::Call&,
                                                        const v1::DeleteFileSetRequest&);
  absl::StatusOr<v1::FileSetVersion> GetFileSetVersion(const rpc::Call&,
                                                       const v1::GetFileSetVersionRequest&);
  absl::StatusOr<v1::ListFileSetVersionsResponse> ListFileSetVersions(
      const rpc::Call&, const v1::ListFileSetVersionsRequest&);
  absl::StatusOr<google::protobuf::Empty> DeleteFileSetVersion(
      const rpc::Call&, const v1::DeleteFileSetVersionRequest&);
  absl::StatusOr<v1::ListFilesResponse> ListFiles(const rpc::Call&, const v1::ListFilesRequest&);
  absl::StatusOr<v1::DiffVersionsResponse> DiffVersions(const rpc::Call&,
                                                        const v1::DiffVersionsRequest&);
  absl::StatusOr<v1::FileSetVersion> CopyVersion(const rpc::Call&, const v1::CopyVersionRequest&);
  absl::StatusOr<v1::FileSetVersion> RegisterInPlace(const rpc::Call&,
                                                     const v1::RegisterInPlaceRequest&);
  absl::StatusOr<v1::FileSetRef> SetFileSetRef(const rpc::Call&, const v1::SetFileSetRefRequest&);
  absl::StatusOr<v1::FileSetRef> GetFileSetRef(const rpc::Call&, const v1::GetFileSetRefRequest&);
  absl::StatusOr<v1::ListFileSetRefsResponse> ListFileSetRefs(const rpc::Call&,
                                                              const v1::ListFileSetRefsRequest&);
  absl::StatusOr<google::protobuf::Empty> DeleteFileSetRef(const rpc::Call&,
                                                           const v1::DeleteFileSetRefRequest&);
  absl::StatusOr<v1::Pin> PutPin(const rpc::Call&, const v1::PutPinRequest&);
  absl::StatusOr<google::protobuf::Empty> DeletePin(const rpc::Call&, const v1::DeletePinRequest&);
  absl::StatusOr<v1::ListPinsResponse> ListPins(const rpc::Call&, const v1::ListPinsRequest&);

 private:
  using KeepFileset = std::function<bool(const FilesetRecord&)>;
  absl::StatusOr<std::vector<FilesetRecord>> ListByName(const std::string& workspace,
                                                        const KeepFileset& keep,
                                                        const std::string& after,
                                                        size_t limit) const;
  absl::StatusOr<std::vector<FilesetRecord>> ListInOrder(const std::string& workspace,
                                                         const KeepFileset& keep,
                                                         const FilesetOrder& order,
                                                         const std::string& after,
                                                         size_t limit) const;
  absl::StatusOr<v1::FileSetVersion> Describe(const ResolvedVersion& version) const;

  Catalog& catalog_;
  const Options options_;
};

}  // namespace graft::fileservice
