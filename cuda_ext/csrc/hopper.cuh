// Warpgroup matrix products of compute capability 9.0.
#pragma once

#include "common.cuh"
#include "launch.h"

namespace dain {

using hopper::kTeam;
constexpr int kPack = 8;  // channels in 16 bytes

// Which channel is to be a column of a product, so that what a lane has of four blocks of 8 columns, 2 (lane % 4) and the
// next of each, are 8 channels side by side.
__host__ __device__ constexpr int channel_of(int column) {
  return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
}

inline int count_processors() {
  return attribute_of_device(cudaDevAttrMultiProcessorCount);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ inline uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;");
}

// Waits until at most `kPending` commits of this thread's copies are unfinished, and shows the others to the tensor
// cores, which read shared memory by a path of their own.
template <int kPending>
__device__ void finish_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline void synchronise_team(int team) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kTeam) : "memory");
}

// A matrix in shared memory as blocks of 8 rows x 16 bytes: their distances along the columns and along the rows.
__device__ inline uint64_t matrix(uint32_t address, uint32_t along_columns, uint32_t along_rows) {
  return uint64_t(address >> 4) | uint64_t(along_columns >> 4) << 16 | uint64_t(along_rows >> 4) << 32;
}

#define LIST_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
  "%25, %26, %27, %28, %29, %30, %31"
#define LIST_64 LIST_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LIST_96 LIST_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
  "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LIST_128 LIST_96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, " \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_8(i) \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]), \
      "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_96(i) SUMS_64(i), SUMS_32(i + 64)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)

#define ISSUE(columns, depth, types, flags, list, operands, predicate, ...)                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" predicate ", 0;\n"                                           \
               "wgmma.mma_async.sync.aligned.m64n" #columns "k" #depth ".f32." types " {" list "}, " operands     \
               ", p, 1, 1" flags ";\n}"                                                                           \
               : __VA_ARGS__                                                                                      \
               : "l"(a), "l"(b), "r"(int(add)))

#define MULTIPLY(columns, ...)                                       \
  if constexpr (kColumns == columns) {                               \
    if constexpr (std::is_same_v<T, __half>) {                       \
      ISSUE(columns, 16, "f16.f16", ", 0, 0", __VA_ARGS__);          \
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {         \
      ISSUE(columns, 16, "bf16.bf16", ", 0, 0", __VA_ARGS__);        \
    } else {                                                         \
      static_assert(std::is_same_v<T, __nv_fp8_e4m3>);               \
      ISSUE(columns, 32, "e4m3.e4m3", "", __VA_ARGS__);              \
    }                                                                \
  }

// The product of 64 rows with kColumns columns over 32 bytes of channels, added to `sums` or instead of them.
template <typename T, int kColumns>
__device__ void multiply(float (&sums)[kColumns / 2], uint64_t a, uint64_t b, bool add) {
  MULTIPLY(64, LIST_32, "%32, %33", "34", SUMS_32(0))
  MULTIPLY(128, LIST_64, "%64, %65", "66", SUMS_64(0))
  MULTIPLY(192, LIST_96, "%96, %97", "98", SUMS_96(0))
  MULTIPLY(256, LIST_128, "%128, %129", "130", SUMS_128(0))
}

__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `kPending` commits are unfinished.
template <int kPending>
__device__ void finish_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving what reads or writes sums across products that are under way.
template <int kSums>
__device__ void hold(float (&sums)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    asm volatile("" : "+f"(sums[i])::"memory");
  }
}

#endif

}  // namespace dain
