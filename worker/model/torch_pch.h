// The one precompiled header of all targets that use torch (29 s to make, 10 s saved per file).
// Files include what they use all the same: sanitizer builds go without it.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
