"""Trains an adapter and watches it: create_and_watch.py MODEL DATASET

GRAFT_ADDRESS, GRAFT_TOKEN and GRAFT_CA are what `graft context env` prints.
"""
import os
import sys
import uuid

import grpc
from graft.v1 import auth_pb2, auth_pb2_grpc, job_pb2, job_pb2_grpc


def main(model: str, dataset: str) -> int:
    with open(os.environ["GRAFT_CA"], "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    with grpc.secure_channel(os.environ["GRAFT_ADDRESS"], credentials) as channel:
        exchange = auth_pb2.ExchangeRequest(token=os.environ["GRAFT_TOKEN"])
        token = auth_pb2_grpc.AuthServiceStub(channel).Exchange(exchange).access_token
        metadata = [("authorization", f"Bearer {token}")]
        jobs = job_pb2_grpc.JobServiceStub(channel)

        request = job_pb2.CreateJobRequest(parent="workspaces/default", request_id=str(uuid.uuid4()))
        spec = request.job.spec
        spec.model.base = f"workspaces/default/models/{model}"
        spec.dataset.training.add(fileset=f"workspaces/default/filesets/{dataset}")
        spec.method.sft.SetInParent()
        spec.schedule.max_steps = 5
        job = jobs.CreateJob(request, metadata=metadata)

        watch = job_pb2.WatchJobsRequest(parent=job.name, until_terminal=True)
        for change in jobs.WatchJobs(watch, metadata=metadata):
            if change.HasField("job"):
                job = change.job
                print(job_pb2.JobState.Name(job.status.state), job.status.progress.steps_done, flush=True)
    return 0 if job.status.state == job_pb2.JOB_STATE_COMPLETED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
