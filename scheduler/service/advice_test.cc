// What is said of jobs that are not there yet: estimates, the schema, what they would wait for, and
// the layout that is chosen for them.
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "graft/v1/model.grpc.pb.h"
#include "scheduler/service/job_schema.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/service/testing/test_worker.h"
#include "worker/spec/test_models.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::HasSubstr;

constexpr char kConfig[] = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8,
  "num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 512,
  "rms_norm_eps": 1e-5, "tie_word_embeddings": true})";

class AdviceTest : public ServiceTest {
 protected:
  // A worker with so many GPUs of 80 GiB in one NVLink domain.
  void AddGpus(const std::string& node, int gpus) {
    TestWorker worker(channel_, node);
    worker.introduction().mutable_inventory()->clear_devices();
    for (int i = 0; i < gpus; ++i) {
      v1::Device& device = *worker.introduction().mutable_inventory()->add_devices();
      device.set_index(i);
      device.set_kind(v1::Device::KIND_CUDA);
      device.set_health(v1::Device::HEALTH_OK);
      device.set_memory_bytes(int64_t{80} << 30);
    }
    worker.Register();
  }
  // The base model is said to be as large as that.
  void SetFacts(int64_t parameters, int layers, int heads, int kv_heads, int64_t hidden) {
    model_spec_.set_parameters(parameters);
    model_spec_.set_layers(layers);
    model_spec_.set_attention_heads(heads);
    model_spec_.set_kv_heads(kv_heads);
    model_spec_.set_hidden_size(hidden);
    server_.reset();
    Start(true);
  }
  // The files of a small model with every weight.
  void PutModelFiles(const std::string& version) {
    GRAFT_ASSERT_OK_AND_ASSIGN(const Json config, Json::Parse(kConfig));
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto described, spec::DescribeConfig(config));
    const auto files = spec::NumberedModel(config, described);
    auto& contents = files_.models[version];
    for (const std::string& name : files->Names()) {
      GRAFT_ASSERT_OK_AND_ASSIGN(std::string bytes, spec::ReadWhole(*files, name, 1 << 24));
      contents.push_back({name, std::move(bytes)});
    }
  }
  absl::StatusOr<v1::Explanation> Explain(const v1::JobSpec& spec) {
    v1::ExplainJobRequest request;
    request.set_parent("workspaces/default");
    *request.mutable_spec() = spec;
    v1::Explanation explanation;
    const absl::Status status =
        Call(*jobs_, &v1::JobService::Stub::ExplainJob, request, explanation);
    if (!status.ok()) return status;
    return explanation;
  }
};

TEST_F(AdviceTest, AModelSaysHowManyDevicesHoldIt) {
  PutModelFiles("workspaces/default/filesets/small/versions/1");
  v1::CreateModelRequest request;
  request.set_parent("workspaces/default");
  request.set_model_id("small");
  request.mutable_model()->set_fileset("workspaces/default/filesets/small");
  v1::Model model;
  const auto models = v1::ModelService::NewStub(channel_);
  ASSERT_THAT(Call(*models, &v1::ModelService::Stub::CreateModel, request, model), IsOk());
  ASSERT_EQ(model.spec().device_needs_size(), 4);
  EXPECT_EQ(model.spec().device_needs(0).memory_gib(), 24);
  EXPECT_EQ(model.spec().device_needs(0).lora(), 1);
  EXPECT_EQ(model.spec().device_needs(3).all_weights(), 1);
  ASSERT_EQ(model.spec().linear_layers_size(), 7);
  EXPECT_EQ(model.spec().linear_layers(0).name(), "q_proj");
  EXPECT_EQ(model.spec().linear_layers(0).count(), model.spec().layers());
  EXPECT_EQ(model.spec().linear_layers(0).in_features(), model.spec().hidden_size());
  EXPECT_EQ(model.spec().rope(), "default");
}

TEST_F(AdviceTest, AnEstimateComesFromTheModelsFiles) {
  PutModelFiles("workspaces/default/filesets/base/versions/1");
  v1::EstimateJobRequest request;
  request.set_parent("workspaces/default");
  *request.mutable_spec() = NewJob("x").job().spec();
  request.mutable_spec()->mutable_schedule()->set_max_steps(10);
  request.set_device_memory(int64_t{8} << 30);
  v1::EstimateJobResponse response;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::EstimateJob, request, response), IsOk());
  EXPECT_TRUE(response.fits());
  EXPECT_EQ(response.estimate().steps(), 10);
  const v1::Estimate::Memory& memory = response.estimate().device_memory();
  EXPECT_GT(memory.weights(), 0);
  EXPECT_GT(memory.gradients(), 0);
  EXPECT_EQ(memory.optimizer(), 2 * memory.gradients()) << "AdamW's two states in fp32";
  EXPECT_GT(memory.activations(), 0);
  EXPECT_GE(memory.overhead(), 0);
  EXPECT_GT(response.estimate().host_memory(), memory.total());
  const int64_t lora_disk = response.estimate().disk();
  EXPECT_GT(lora_disk, 0);
  EXPECT_EQ(response.estimate().layout().world_size(), 1);
  request.set_device_memory(1000);
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::EstimateJob, request, response), IsOk());
  EXPECT_FALSE(response.fits());
  EXPECT_EQ(response.warnings(response.warnings_size() - 1).code(), "DOES_NOT_FIT");
  request.set_device_memory(int64_t{8} << 30);
  request.mutable_spec()->mutable_tuning()->set_type(v1::FINETUNING_TYPE_ALL_WEIGHTS);
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::EstimateJob, request, response), IsOk());
  EXPECT_GT(response.estimate().disk(), lora_disk);
  request.set_device_memory(-1);
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::EstimateJob, request, response),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device_memory")));
}

TEST_F(AdviceTest, AJobMayNameItsNodes) {
  AddGpus("a1", 4);
  AddGpus("b1", 1);
  v1::CreateJobRequest request = NewJob("there");
  v1::ResourcesSection& resources = *request.mutable_job()->mutable_spec()->mutable_resources();
  resources.add_nodes("nodes/b1");
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  v1::ListAttemptsRequest list;
  list.set_parent(job.name());
  v1::ListAttemptsResponse tried;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ListAttempts, list, tried), IsOk());
  ASSERT_EQ(tried.attempts_size(), 1);
  EXPECT_EQ(tried.attempts(0).ranks(0).node(), "nodes/b1");
  request.set_job_id("nowhere");
  resources.set_nodes(0, "nodes/c1");
  const absl::Status status = Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_EQ(rpc::ReadErrorDetails(status).fields.size(), 1);
  EXPECT_EQ(rpc::ReadErrorDetails(status).fields[0].field, "spec.resources.nodes");
}

TEST_F(AdviceTest, TheSchemaIsJsonAndItsExampleNamesEverySection) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json schema, Json::Parse(JobSchema(v1::METHOD_SFT)));
  const Json* properties = schema.Find("properties");
  ASSERT_NE(properties, nullptr);
  const std::string example = ExampleJobFile(v1::METHOD_SFT);
  const auto* spec = v1::JobSpec::descriptor();
  int sections = 0;
  for (int i = 0; i < spec->field_count(); ++i) {
    const auto* field = spec->field(i);
    if (field->message_type() == nullptr || properties->Find(field->name()) == nullptr) continue;
    ++sections;
    EXPECT_THAT(example, HasSubstr(absl::StrCat(field->name(), ":")));
  }
  EXPECT_GT(sections, 5);
}

TEST_F(AdviceTest, ASpecificationIsExplainedBeforeItIsSubmitted) {
  v1::JobSpec spec = NewJob("x").job().spec();
  spec.mutable_resources()->set_device(v1::ResourcesSection::DEVICE_GPU);
  AddGpus("n0", 2);
  GRAFT_ASSERT_OK_AND_ASSIGN(v1::Explanation free, Explain(spec));
  ASSERT_EQ(free.causes_size(), 1);
  EXPECT_THAT(free.text(), HasSubstr("the next pass over the queue starts it"));

  v1::CreateJobRequest taken = NewJob("taken");
  *taken.mutable_job()->mutable_spec()->mutable_resources() = spec.resources();
  taken.mutable_job()->mutable_spec()->mutable_parallelism()->set_gpus_per_node(2);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, taken, job), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(v1::Explanation full, Explain(spec));
  ASSERT_GT(full.causes_size(), 0);
  EXPECT_EQ(full.causes(0).code(), v1::Explanation::CODE_CAPACITY);
  EXPECT_GT(full.funnel_size(), 0);

  spec.mutable_parallelism()->set_gpus_per_node(8);
  GRAFT_ASSERT_OK_AND_ASSIGN(v1::Explanation never, Explain(spec));
  ASSERT_EQ(never.causes_size(), 1);
  EXPECT_EQ(never.causes(0).code(), v1::Explanation::CODE_INVALID_SHAPE);
  EXPECT_THAT(never.text(), HasSubstr("8"));

  spec.mutable_tuning()->mutable_lora()->set_rank(0);
  EXPECT_THAT(Explain(spec).status(), StatusIs(absl::StatusCode::kInvalidArgument));
  v1::ListJobsRequest list;
  list.set_parent("workspaces/default");
  v1::ListJobsResponse jobs;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ListJobs, list, jobs), IsOk());
  EXPECT_EQ(jobs.jobs_size(), 1) << "explaining makes nothing";
}

TEST_F(AdviceTest, ARemedySaysWhatItDoesToTheStep) {
  SetFacts(135'000'000, 30, 9, 3, 576);
  AddGpus("n0", 2);
  v1::CreateJobRequest taken = NewJob("taken");
  v1::JobSpec& spec = *taken.mutable_job()->mutable_spec();
  spec.mutable_resources()->set_device(v1::ResourcesSection::DEVICE_GPU);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, taken, job), IsOk());
  spec.mutable_parallelism()->set_gpus_per_node(2);
  GRAFT_ASSERT_OK_AND_ASSIGN(const v1::Explanation why, Explain(spec));
  ASSERT_GT(why.counterfactuals_size(), 0);
  EXPECT_EQ(why.counterfactuals(0).change(), "would start now with dp 1");
  EXPECT_GT(why.counterfactuals(0).slowdown(), 0.9) << "half the devices, twice the time";
  EXPECT_LE(why.counterfactuals(0).slowdown(), 1);
}

TEST_F(AdviceTest, TheSmallestLayoutThatHoldsTheModelIsChosenAndItsRunnersUpAreKept) {
  SetFacts(70'000'000'000, 80, 64, 8, 8192);
  AddGpus("n0", 8);
  v1::CreateJobRequest request = NewJob("large");
  request.mutable_job()->mutable_spec()->mutable_schedule()->set_max_steps(100);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  const v1::Layout& layout = job.estimate().layout();
  EXPECT_GT(layout.world_size(), 1) << "140 GB of weights are more than a GPU has";
  EXPECT_LE(layout.world_size(), 8);
  EXPECT_EQ(job.resolved_spec().parallelism().gpus_per_node(), layout.world_size());
  EXPECT_EQ(job.resolved_spec().parallelism().tensor_parallel_size(),
            layout.tensor_parallel_size());
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_QUEUED);
  EXPECT_GT(job.estimate().device_memory().total(), 0);
  EXPECT_GT(job.estimate().step_seconds(), 0);
  for (const v1::Alternative& other : job.estimate().alternatives()) {
    EXPECT_EQ(other.devices(), layout.world_size());
  }

  request = NewJob("given");
  auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
  given.set_tensor_parallel_size(8);
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  EXPECT_EQ(job.estimate().layout().tensor_parallel_size(), 8) << "what is given is kept";

  request = NewJob("whole");
  request.mutable_job()->mutable_spec()->mutable_tuning()->set_type(
      v1::FINETUNING_TYPE_ALL_WEIGHTS);
  request.mutable_job()->mutable_spec()->mutable_resources()->set_device(
      v1::ResourcesSection::DEVICE_GPU);
  request.mutable_job()->mutable_spec()->mutable_parallelism()->set_gpus_per_node(8);
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("GiB of each device")));
}

TEST_F(AdviceTest, AGivenNumberOfNodesIsKeptAndTheFieldThatCannotBeIsNamed) {
  SetFacts(135'000'000, 30, 9, 3, 576);
  AddGpus("n0", 2);
  AddGpus("n1", 2);
  v1::CreateJobRequest request = NewJob("spread");
  auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
  given.set_nodes(2);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  EXPECT_EQ(job.estimate().layout().world_size(), 2);
  EXPECT_EQ(job.resolved_spec().parallelism().gpus_per_node(), 1);

  const auto refused = [&](const std::string& name, int nodes, int gpus) {
    v1::CreateJobRequest one = NewJob(name);
    auto& resources = *one.mutable_job()->mutable_spec()->mutable_resources();
    resources.set_device(v1::ResourcesSection::DEVICE_GPU);
    one.mutable_job()->mutable_spec()->mutable_parallelism()->set_nodes(nodes);
    one.mutable_job()->mutable_spec()->mutable_parallelism()->set_gpus_per_node(gpus);
    one.mutable_job()->mutable_spec()->mutable_batch()->set_global_batch_size(nodes * gpus);
    return Call(*jobs_, &v1::JobService::Stub::CreateJob, one, job);
  };
  EXPECT_THAT(refused("wide", 4, 1), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("1 devices on each of 4 nodes")));
  EXPECT_THAT(refused("thick", 1, 4), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("0 of the 2 nodes that match")));
}

TEST_F(AdviceTest, GivenNodesGetAsFewDevicesEachAsTheGroupsTake) {
  SetFacts(135'000'000, 30, 8, 4, 576);
  const auto devices = [&](int nodes, int tp, int pp) {
    v1::CreateJobRequest request = NewJob("few");
    request.set_validate_only(true);
    auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
    given.set_nodes(nodes);
    given.set_tensor_parallel_size(tp);
    given.set_pipeline_parallel_size(pp);
    request.mutable_job()->mutable_spec()->mutable_batch()->set_global_batch_size(24);
    v1::Job job;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
    return job.estimate().layout().world_size();
  };
  EXPECT_EQ(devices(2, 1, 2), 2) << "a stage on each";
  EXPECT_EQ(devices(2, 2, 1), 4) << "a tensor group stays on its node";
  EXPECT_EQ(devices(2, 2, 4), 8) << "two stages on each";
  EXPECT_EQ(devices(3, 1, 2), 6) << "as many on each";
}

TEST_F(AdviceTest, AGroupThatWouldLeaveItsNodeIsRefusedWithWhatWouldDo) {
  SetFacts(8'000'000'000, 32, 32, 8, 4096);
  AddGpus("n0", 2);
  AddGpus("n1", 2);
  v1::CreateJobRequest request = NewJob("wide");
  auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
  given.set_nodes(2);
  given.set_gpus_per_node(2);
  given.set_tensor_parallel_size(4);
  request.mutable_job()->mutable_spec()->mutable_resources()->set_device(
      v1::ResourcesSection::DEVICE_GPU);
  v1::Job job;
  const absl::Status refused = Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("use tp 2 with pp 2, or allow_tp_across_nodes")));
  const rpc::ErrorDetails details = rpc::ReadErrorDetails(refused);
  EXPECT_EQ(details.reason, "TP_ACROSS_DOMAINS");
  ASSERT_EQ(details.fields.size(), 1);
  EXPECT_EQ(details.fields[0].field, "spec.parallelism.tensor_parallel_size");
  given.set_allow_tp_across_nodes(true);
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
}

TEST_F(AdviceTest, TheRestIsChosenWhereOnlyTpIsGiven) {
  SetFacts(70'000'000'000, 80, 64, 8, 8192);
  AddGpus("n0", 8);
  v1::CreateJobRequest request = NewJob("half");
  request.mutable_job()->mutable_spec()->mutable_parallelism()->set_tensor_parallel_size(2);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  EXPECT_EQ(job.estimate().layout().tensor_parallel_size(), 2);
  EXPECT_GE(job.estimate().layout().pipeline_parallel_size(), 2);  // 140 GB on devices of 80
}

TEST_F(AdviceTest, DividedWeightsAreGivenNoPipeline) {
  SetFacts(8'000'000'000, 32, 32, 8, 4096);
  AddGpus("n0", 8);
  const auto pipelines = [this](const std::string& id, bool divided) {
    v1::CreateJobRequest request = NewJob(id);
    v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
    spec.mutable_tuning()->set_type(v1::FINETUNING_TYPE_ALL_WEIGHTS);
    if (divided) spec.mutable_parallelism()->set_shard_weights(true);
    v1::Job job;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
    int count = job.estimate().layout().pipeline_parallel_size() > 1 ? 1 : 0;
    for (const v1::Alternative& other : job.estimate().alternatives()) {
      count += other.layout().pipeline_parallel_size() > 1 ? 1 : 0;
    }
    return count;
  };
  EXPECT_GT(pipelines("whole", false), 0);
  EXPECT_EQ(pipelines("divided", true), 0);
}

TEST_F(AdviceTest, ALayoutThatTheModelDoesNotDivideByIsRefusedWithTheNearest) {
  SetFacts(8'000'000'000, 32, 32, 8, 4096);
  v1::CreateJobRequest request = NewJob("odd");
  auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
  given.set_gpus_per_node(6);
  given.set_tensor_parallel_size(6);
  v1::Job job;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("spec.parallelism.tensor_parallel_size of 6 does not divide the "
                                 "32 attention heads")));
  // More ranks than KV heads hold them twice.
  AddGpus("n0", 16);
  given.set_gpus_per_node(16);
  given.set_tensor_parallel_size(16);
  request.set_job_id("wide");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
}

TEST_F(AdviceTest, AFileserviceWithLittleRoomIsToldOf) {
  model_spec_.set_weight_bytes(10'000'000'000);
  SetFacts(5'000'000'000, 32, 32, 8, 4096);
  const auto told = [](const v1::Job& job) {
    std::string message;
    for (const v1::Warning& warning : job.warnings()) {
      if (warning.code() == "DISK_TIGHT") message = warning.message();
    }
    return message;
  };
  EXPECT_EQ(told(MakeJob("roomy")), "");
  files_.free_bytes = 12'000'000'000;
  EXPECT_THAT(told(MakeJob("tight")), HasSubstr("12.00 GB free; 1.5 times"));
}

TEST_F(AdviceTest, ExpertParallelismOfADenseModelIsLeftOutWithAWarning) {
  SetFacts(8'000'000'000, 32, 32, 8, 4096);
  AddGpus("n0", 2);
  v1::CreateJobRequest request = NewJob("dense");
  auto& given = *request.mutable_job()->mutable_spec()->mutable_parallelism();
  given.set_gpus_per_node(2);
  given.set_expert_parallel_size(2);
  request.mutable_job()->mutable_spec()->mutable_batch()->set_global_batch_size(2);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  ASSERT_GE(job.warnings_size(), 1);
  EXPECT_EQ(job.warnings(0).code(), "EXPERT_PARALLEL_IGNORED");
  EXPECT_EQ(job.resolved_spec().parallelism().expert_parallel_size(), 1);
}

TEST_F(AdviceTest, AModelThatOneDeviceHoldsTakesOne) {
  SetFacts(135'000'000, 30, 9, 3, 576);
  AddGpus("n0", 8);
  const v1::Job job = MakeJob("small");
  EXPECT_EQ(job.estimate().layout().world_size(), 1);
  v1::ValidateJobRequest request;
  request.set_parent("workspaces/default");
  *request.mutable_spec() = NewJob("x").job().spec();
  request.mutable_spec()->mutable_parallelism()->set_gpus_per_node(1000);
  request.mutable_spec()->mutable_resources()->set_device(v1::ResourcesSection::DEVICE_GPU);
  request.mutable_spec()->mutable_batch()->set_global_batch_size(1000);
  v1::ValidateJobResponse response;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ValidateJob, request, response), IsOk());
  ASSERT_EQ(response.violations_size(), 1);
  EXPECT_EQ(response.violations(0).reason(), v1::REASON_NEVER_FITS);
}

}  // namespace
}  // namespace graft::scheduler
