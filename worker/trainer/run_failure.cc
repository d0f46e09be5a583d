#include "worker/trainer/run_failure.h"

namespace graft::trainer {

RunFailure Classify(Phase phase, const absl::Status& status) {
  if (absl::IsUnimplemented(status)) {
    return {ErrorCode::kUnimplemented, status, "leave the feature out of the job"};
  }
  if (absl::IsResourceExhausted(status) && phase != Phase::kStore) {
    return {ErrorCode::kOutOfMemory, status,
            "lower batch.micro or dataset.max_seq_length, or set activation_checkpointing to full"};
  }
  switch (phase) {
    case Phase::kConfig:
      return {ErrorCode::kInvalidConfig, status, "mend run.json"};
    case Phase::kModel:
      return {ErrorCode::kInvalidModel, status, "check the model's files"};
    case Phase::kGather:
      if (absl::IsInvalidArgument(status)) {
        return {ErrorCode::kInvalidConfig, status, "mend the layout"};
      }
      return {ErrorCode::kRankLost, status, "start all ranks of the attempt anew"};
    case Phase::kData:
      return {ErrorCode::kInvalidDataset, status, "mend the rows that are named"};
    case Phase::kResume:
      return {ErrorCode::kInvalidCheckpoint, status,
              "resume with the run.json of the checkpoint, or start anew without resume_from"};
    case Phase::kStart:
      return {ErrorCode::kInvalidCheckpoint, status,
              "start_from takes an adapter or a checkpoint of the same model and tuning"};
    case Phase::kStore:
      return {ErrorCode::kStorage, status, "make room, or check the folder's permissions"};
    case Phase::kTrain:
      break;
  }
  if (absl::IsDataLoss(status) || absl::IsUnavailable(status)) {
    return {ErrorCode::kRankLost, status, "the run goes on from its last checkpoint"};
  }
  if (absl::IsAborted(status)) {
    return {ErrorCode::kDiverged, status, "lower the learning rate, or look at the rows named"};
  }
  return {ErrorCode::kInternal, status, "report this as a bug"};
}

}  // namespace graft::trainer
