/* Calls compiled kernels one after the other on tensors from a file, with no TVM runtime, on any machine with a C library:
 * what the counting run of the cost model executes under qemu, and what a kernel for WebAssembly is timed with.
 *
 *   harness REQUEST RESPONSE [SAMPLES NUMBER]
 *
 * The generated calls.c tells which kernels, and which tensors each takes. REQUEST holds all tensors, RESPONSE gets the
 * last argument of each call. Both are "LUTCTNS1" files, described in lutc/runtime/runner/main.c.
 *
 * With SAMPLES and NUMBER, the calls are timed afterwards: SAMPLES lines of nanoseconds, one value a call, each the mean
 * of NUMBER calls. Calls take turns within a line, so that they see the same machine.
 *
 * lutc_call_marker is entered before and after each call, so that a log of executed blocks can be cut into calls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

#include "calls.h"

#define ALIGNMENT 64
#define WORKSPACE (256u << 20)
#define MAX_NDIM 32
#define MAX_ARGS 64

static const char kMagic[8] = {'L', 'U', 'T', 'C', 'T', 'N', 'S', '1'};

static void die(const char* what) {
  fprintf(stderr, "error: %s\n", what);
  exit(1);
}

/* ---- what kernels expect of the runtime: errors end the run, parallel loops run as one task ---------------------- */

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  fprintf(stderr, "error: %s: %s\n", kind, message);
  exit(1);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "error: %s: ", kind);
  for (int i = 0; i < count; ++i) {
    if (parts[i] != NULL) fputs(parts[i], stderr);
  }
  exit(1);
}

/* objects for WebAssembly tell their functions when they are loaded; calls.c knows them */
int TVMFFIEnvModRegisterSystemLibSymbol(const char* name, void* symbol) {
  (void)name, (void)symbol;
  return 0;
}

typedef struct {
  void* sync_handle;
  int32_t num_task;
} ParallelEnv;

int TVMBackendParallelLaunch(int (*task)(int, ParallelEnv*, void*), void* data, int count) {
  ParallelEnv env = {NULL, 1};
  (void)count;
  return task(0, &env, data);
}

/* Kernels give workspaces back in reverse order. Taking one costs next to nothing, as from the runtime's own pool. */
static char* workspace;
static uint64_t workspace_used;

void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  uint64_t start = workspace_used;
  workspace_used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return workspace_used <= WORKSPACE ? workspace + start : NULL;
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void* data) {
  (void)device_type, (void)device_id;
  workspace_used = (uint64_t)((char*)data - workspace);
  return 0;
}

/* most objects hold weak pointers of these names, which a runtime fills; those for WebAssembly call the functions */
void* __TVMBackendParallelLaunch = (void*)TVMBackendParallelLaunch;
void* __TVMBackendAllocWorkspace = (void*)TVMBackendAllocWorkspace;
void* __TVMBackendFreeWorkspace = (void*)TVMBackendFreeWorkspace;

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

static uint64_t tensor_bytes(const DLTensor* t) {
  uint64_t count = 1;
  for (int i = 0; i < t->ndim; ++i) count *= (uint64_t)t->shape[i];
  return count * t->dtype.bits / 8;
}

static void read_tensor(FILE* file, DLTensor* t) {
  uint32_t ndim = 0;
  uint64_t bytes = 0;
  memset(t, 0, sizeof(*t));
  int ok = fread(&t->dtype.code, 1, 1, file) == 1 && fread(&t->dtype.bits, 1, 1, file) == 1 &&
           fread(&t->dtype.lanes, 2, 1, file) == 1 && fread(&ndim, 4, 1, file) == 1 && ndim <= MAX_NDIM;
  t->device.device_type = kDLCPU;
  t->ndim = (int)ndim;
  t->shape = calloc(MAX_NDIM, sizeof(int64_t));
  ok = ok && fread(t->shape, 8, ndim, file) == ndim && fread(&bytes, 8, 1, file) == 1 && bytes == tensor_bytes(t);
  if (ok) t->data = aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT);
  if (!ok || t->data == NULL || fread(t->data, 1, bytes, file) != bytes) die("damaged request");
}

static void write_tensor(FILE* file, const DLTensor* t) {
  uint32_t ndim = (uint32_t)t->ndim;
  uint64_t bytes = tensor_bytes(t);
  fwrite(&t->dtype.code, 1, 1, file);
  fwrite(&t->dtype.bits, 1, 1, file);
  fwrite(&t->dtype.lanes, 2, 1, file);
  fwrite(&ndim, 4, 1, file);
  fwrite(t->shape, 8, ndim, file);
  fwrite(&bytes, 8, 1, file);
  fwrite(t->data, 1, bytes, file);
}

static DLTensor* read_request(const char* path) {
  char magic[8];
  uint32_t count = 0;
  FILE* file = fopen(path, "rb");
  if (file == NULL || fread(magic, 8, 1, file) != 1 || memcmp(magic, kMagic, 8) != 0 || fread(&count, 4, 1, file) != 1) {
    die("not a request file");
  }
  DLTensor* tensors = calloc(count + 1, sizeof(DLTensor));
  for (uint32_t i = 0; i < count; ++i) read_tensor(file, &tensors[i]);
  for (uint32_t i = 0; i < count; ++i) tensors[i].data = tensors[kOwners[i]].data;
  fclose(file);
  return tensors;
}

static void write_response(const char* path, const DLTensor* tensors) {
  uint32_t count = (uint32_t)kNumCalls;
  FILE* file = fopen(path, "wb");
  if (file == NULL) die("cannot write the response");
  fwrite(kMagic, 8, 1, file);
  fwrite(&count, 4, 1, file);
  for (int i = 0; i < kNumCalls; ++i) write_tensor(file, &tensors[kCalls[i].args[kCalls[i].num_args - 1]]);
  if (fclose(file) != 0) die("cannot write the response");
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

__attribute__((noinline)) void lutc_call_marker(void) { __asm__ volatile("" ::: "memory"); }

static void call(const Call* c, DLTensor* tensors, int times) {
  TVMFFIAny args[MAX_ARGS], result;
  int rc = 0;
  memset(args, 0, sizeof(args));
  memset(&result, 0, sizeof(result));
  if (c->num_args > MAX_ARGS) die("too many arguments");
  for (int i = 0; i < c->num_args; ++i) {
    args[i].type_index = kTVMFFIDLTensorPtr;
    args[i].v_ptr = &tensors[c->args[i]];
  }
  lutc_call_marker();
  for (int i = 0; i < times; ++i) rc |= c->kernel(NULL, args, c->num_args, &result);
  lutc_call_marker();
  if (rc != 0) die("a kernel failed");
}

static double nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

static void time_calls(DLTensor* tensors, int samples, int number) {
  for (int sample = 0; sample < samples; ++sample) {
    for (int i = 0; i < kNumCalls; ++i) {
      double start = nanoseconds();
      call(&kCalls[i], tensors, number);
      printf("%.1f ", (nanoseconds() - start) / number);
    }
    printf("\n");
  }
}

int main(int argc, char** argv) {
  if (argc != 3 && argc != 5) die("usage: harness REQUEST RESPONSE [SAMPLES NUMBER]");
  DLTensor* tensors = read_request(argv[1]);
  workspace = aligned_alloc(ALIGNMENT, WORKSPACE);
  if (workspace == NULL) die("out of memory");
  for (int i = 0; i < kNumCalls; ++i) call(&kCalls[i], tensors, 1);
  write_response(argv[2], tensors);
  if (argc == 5) time_calls(tensors, atoi(argv[3]), atoi(argv[4]));
  return 0;
}
