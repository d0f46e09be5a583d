// graft.v1.DataService: bytes in and out. Bulk streams are in upload_stream.h, download_stream.h
// and upload_file_stream.h; here is what surrounds them.
//
// Thread-safe; what the plane refers to must outlive it.
#pragma once

#include <memory>

#include "fileservice/service/chunks_stream.h"
#include "fileservice/service/data_plane.h"
#include "fileservice/service/download_stream.h"
#include "fileservice/service/exchange.h"
#include "fileservice/service/signed_url.h"
#include "fileservice/service/upload_file_stream.h"
#include "fileservice/service/upload_stream.h"
#include "google/protobuf/empty.pb.h"
#include "graft/v1/data.pb.h"
#include "rpc/call.h"
#include "rpc/service.h"

namespace graft::fileservice {

class DataService {
 public:
  // `urls` makes signed URLs; null: SignUrl answers UNIMPLEMENTED, the HTTP door is shut.
  // `exchange`; null: ExchangePieces does, fan-out is off.
  explicit DataService(DataPlane& plane, const UrlSigner* urls = nullptr,
                       Exchange* exchange = nullptr)
      : plane_(plane), urls_(urls), exchange_(exchange) {}
  rpc::Service Bind();

  absl::StatusOr<v1::UploadSession> CreateUploadSession(const rpc::Call&,
                                                        const v1::CreateUploadSessionRequest&);
  absl::StatusOr<v1::UploadSession> GetUploadSession(const rpc::Call&,
                                                     const v1::GetUploadSessionRequest&);
  absl::StatusOr<google::protobuf::Empty> AbortUploadSession(const rpc::Call&,
                                                             const v1::AbortUploadSessionRequest&);
  absl::StatusOr<v1::FindMissingResponse> FindMissing(const rpc::Call&,
                                                      const v1::FindMissingRequest&);
  absl::StatusOr<v1::FileSetVersion> Publish(const rpc::Call&, const v1::PublishRequest&);
  absl::StatusOr<v1::GetManifestResponse> GetManifest(const rpc::Call&,
                                                      const v1::GetManifestRequest&);
  grpc::ServerReadReactor<v1::StageFilesRequest>* StageFiles(std::shared_ptr<rpc::Call> call,
                                                             v1::StageFilesResponse* response);
  RawBidiReactor* Upload(std::shared_ptr<rpc::Call> call);
  RawReadReactor* UploadFile(std::shared_ptr<rpc::Call> call, v1::UploadFileResponse* response);
  absl::StatusOr<v1::QueryUploadResponse> QueryUpload(const rpc::Call&,
                                                      const v1::QueryUploadRequest&);
  RawWriteReactor* DownloadChunks(std::shared_ptr<rpc::Call> call,
                                  const v1::DownloadChunksRequest& request);
  Exchange::Reactor* ExchangePieces(std::shared_ptr<rpc::Call> call);
  absl::StatusOr<v1::SignUrlResponse> SignUrl(const rpc::Call&, const v1::SignUrlRequest&);
  RawWriteReactor* Download(std::shared_ptr<rpc::Call> call, const v1::DownloadRequest& request);

 private:
  DataPlane& plane_;
  const UrlSigner* const urls_;
  Exchange* const exchange_;
};

}  // namespace graft::fileservice
