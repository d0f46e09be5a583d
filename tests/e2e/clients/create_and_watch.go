// Trains an adapter and watches it: create_and_watch MODEL DATASET
// GRAFT_ADDRESS, GRAFT_TOKEN and GRAFT_CA are what `graft context env` prints.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	graft "graft.dev/graft/v1"
)

var steps int64 = 5

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	tls, err := credentials.NewClientTLSFromFile(os.Getenv("GRAFT_CA"), "")
	must(err)
	channel, err := grpc.Dial(os.Getenv("GRAFT_ADDRESS"), grpc.WithTransportCredentials(tls))
	must(err)
	credential := &graft.ExchangeRequest_Token{Token: os.Getenv("GRAFT_TOKEN")}
	token, err := graft.NewAuthServiceClient(channel).Exchange(context.Background(),
		&graft.ExchangeRequest{Credential: credential})
	must(err)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token.AccessToken)
	jobs := graft.NewJobServiceClient(channel)

	job, err := jobs.CreateJob(ctx, &graft.CreateJobRequest{Parent: "workspaces/default", Job: &graft.Job{Spec: &graft.JobSpec{
		Model:    &graft.ModelSection{Base: "workspaces/default/models/" + os.Args[1]},
		Dataset:  &graft.DatasetSection{Training: []*graft.DatasetSource{{Fileset: "workspaces/default/filesets/" + os.Args[2]}}},
		Method:   &graft.MethodSection{Method: &graft.MethodSection_Sft{Sft: &graft.Sft{}}},
		Schedule: &graft.ScheduleSection{MaxSteps: &steps},
	}}})
	must(err)
	changes, err := jobs.WatchJobs(ctx, &graft.WatchJobsRequest{Parent: job.Name, UntilTerminal: true})
	must(err)
	for {
		change, err := changes.Recv()
		if err != nil {
			break
		}
		if change.Job != nil {
			job = change.Job
			fmt.Println(job.Status.State, job.Status.GetProgress().GetStepsDone())
		}
	}
	if job.Status.State != graft.JobState_JOB_STATE_COMPLETED {
		os.Exit(1)
	}
}
