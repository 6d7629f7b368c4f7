/* Runs Relax VM libraries with nothing but the TVM runtime: no Python, no C++.
 *
 *   runner [--repeat N] LIBRARY REQUEST RESPONSE [LIBRARY REQUEST RESPONSE]...
 *   runner [--repeat N] --batch FILE        FILE: one path a line, three lines a run
 *
 * Each run loads LIBRARY, calls its function "main" on the tensors in REQUEST and writes the returned tensors, nested
 * tuples flattened, to RESPONSE. A run that fails is told on stderr and the others go on; the exit status is then 1.
 * With --repeat N the mean time of N more calls is printed, in microseconds.
 *
 * REQUEST and RESPONSE are the same format, little-endian: the 8 bytes "LUTCTNS1", u32 count, then for each tensor
 * u8 type code and u8 bits (as DLPack names them), u16 lanes, u32 ndim, i64 shape[ndim], u64 bytes, the data in C order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ffi.h"

#define ALIGNMENT 64 /* what compiled kernels assume of every buffer, and do not check */
#define MAX_NDIM 32
#define MAX_TENSORS 4096

static const char kMagic[8] = {'L', 'U', 'T', 'C', 'T', 'N', 'S', '1'};

static int get_function(const TVMFFIAny* module, const char* name, TVMFFIAny* result) {
  TVMFFIAny args[3] = {*module, string(name), integer(1)};
  args[2].type_index = kTVMFFIBool;
  if (call_global("ffi.ModuleGetFunction", args, 3, result) != 0) return -1;
  return result->type_index == kTVMFFIFunction ? 0 : fail(name, "the library has no such function");
}

static int call_member(const TVMFFIAny* module, const char* name, TVMFFIAny* args, int num_args, TVMFFIAny* result) {
  TVMFFIAny function;
  memset(result, 0, sizeof(*result));
  if (get_function(module, name, &function) != 0) return -1;
  int rc = TVMFFIFunctionCall(function.v_obj, args, num_args, result);
  release(&function);
  return rc == 0 ? 0 : fail_raised(name);
}

/* LIBRARY -> the virtual machine, ready for calls on the CPU. */
static int load(const char* path, TVMFFIAny* vm) {
  TVMFFIAny library, none, name = string(path);
  if (call_global("ffi.ModuleLoadFromFile", &name, 1, &library) != 0) return -1;
  int rc = call_member(&library, "vm_load_executable", NULL, 0, vm);
  release(&library);
  if (rc != 0) return -1;
  TVMFFIAny args[3] = {integer(kDLCPU), integer(0), integer(2)}; /* device type, device id, pooled allocator */
  rc = call_member(vm, "vm_initialization", args, 3, &none);
  if (rc != 0) release(vm);
  return rc;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

typedef struct {
  DLManagedTensor managed;
  int64_t shape[MAX_NDIM];
} OwnedTensor;

static void delete_tensor(DLManagedTensor* self) {
  free(self->dl_tensor.data);
  free(self->manager_ctx);
}

static uint64_t tensor_bytes(const DLTensor* t) {
  uint64_t count = 1;
  for (int i = 0; i < t->ndim; ++i) count *= (uint64_t)t->shape[i];
  return (count * t->dtype.bits * t->dtype.lanes + 7) / 8;
}

static int read_tensor(FILE* file, TVMFFIAny* result) {
  OwnedTensor* own = calloc(1, sizeof(OwnedTensor));
  if (own == NULL) return fail("request", "out of memory");
  DLTensor* t = &own->managed.dl_tensor;
  uint32_t ndim = 0;
  uint64_t bytes = 0;
  int ok = fread(&t->dtype.code, 1, 1, file) == 1 && fread(&t->dtype.bits, 1, 1, file) == 1 &&
           fread(&t->dtype.lanes, 2, 1, file) == 1 && fread(&ndim, 4, 1, file) == 1 && ndim <= MAX_NDIM &&
           fread(own->shape, 8, ndim, file) == ndim && fread(&bytes, 8, 1, file) == 1;
  t->device.device_type = kDLCPU;
  t->ndim = (int)ndim;
  t->shape = own->shape;
  own->managed.manager_ctx = own;
  own->managed.deleter = delete_tensor;
  ok = ok && bytes == tensor_bytes(t);
  if (ok) t->data = aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT);
  ok = ok && t->data != NULL && fread(t->data, 1, bytes, file) == bytes;
  if (!ok) {
    delete_tensor(&own->managed);
    return fail("request", "truncated or damaged tensor");
  }
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFITensorFromDLPack(&own->managed, ALIGNMENT, 1, &handle) != 0) {
    delete_tensor(&own->managed);
    return fail_raised("request");
  }
  memset(result, 0, sizeof(*result));
  result->type_index = kTVMFFITensor;
  result->v_obj = handle;
  return 0;
}

/* The number of tensors read into `inputs` (what was read before an error is still the caller's), or -1. */
static int read_request(const char* path, TVMFFIAny* inputs, int* count) {
  FILE* file = fopen(path, "rb");
  char magic[8];
  uint32_t total = 0;
  int rc = 0;
  *count = 0;
  if (file == NULL) return fail("cannot open request", path);
  if (fread(magic, 8, 1, file) != 1 || memcmp(magic, kMagic, 8) != 0 || fread(&total, 4, 1, file) != 1 ||
      total > MAX_TENSORS) {
    rc = fail("not a request file", path);
  }
  for (; rc == 0 && *count < (int)total; ++*count) {
    rc = read_tensor(file, &inputs[*count]);
    if (rc != 0) break;
  }
  fclose(file);
  return rc;
}

static int write_tensor(FILE* file, const DLTensor* t) {
  uint32_t ndim = (uint32_t)t->ndim;
  uint64_t bytes = tensor_bytes(t);
  fwrite(&t->dtype.code, 1, 1, file);
  fwrite(&t->dtype.bits, 1, 1, file);
  fwrite(&t->dtype.lanes, 2, 1, file);
  fwrite(&ndim, 4, 1, file);
  fwrite(t->shape, 8, ndim, file);
  fwrite(&bytes, 8, 1, file);
  fwrite((const char*)t->data + t->byte_offset, 1, bytes, file);
  return ferror(file) ? fail("response", "cannot write") : 0;
}

static int write_value(FILE* file, const TVMFFIAny* value, uint32_t* count) {
  const char* body = (const char*)value->v_obj + sizeof(TVMFFIObject);
  if (value->type_index == kTVMFFITensor) {
    ++*count;
    return write_tensor(file, (const DLTensor*)body);
  }
  if (value->type_index != kTVMFFIArray) return fail("response", "main() returned neither a tensor nor a tuple");
  const TVMFFISeqCell* tuple = (const TVMFFISeqCell*)body;
  for (int64_t i = 0; i < tuple->size; ++i) {
    if (write_value(file, (const TVMFFIAny*)tuple->data + i, count) != 0) return -1;
  }
  return 0;
}

static int write_response(const char* path, const TVMFFIAny* value) {
  FILE* file = fopen(path, "wb");
  uint32_t count = 0;
  if (file == NULL) return fail("cannot open response", path);
  fwrite(kMagic, 8, 1, file);
  fwrite(&count, 4, 1, file);
  int rc = write_value(file, value, &count);
  fseek(file, 8, SEEK_SET); /* the count is known only now */
  fwrite(&count, 4, 1, file);
  if (fclose(file) != 0 && rc == 0) rc = fail("response", "cannot write");
  if (rc != 0) remove(path);
  return rc;
}

/* ---- runs ------------------------------------------------------------------------------------------------------- */

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int time_calls(const char* library, const TVMFFIAny* vm, TVMFFIAny* inputs, int count, int repeat) {
  TVMFFIAny function, result;
  if (get_function(vm, "main", &function) != 0) return -1;
  int rc = 0;
  double start = now_us();
  for (int i = 0; i < repeat && rc == 0; ++i) {
    memset(&result, 0, sizeof(result));
    rc = TVMFFIFunctionCall(function.v_obj, inputs, count, &result);
    if (rc == 0) release(&result);
  }
  double elapsed = now_us() - start;
  release(&function);
  if (rc != 0) return fail_raised("main");
  printf("%s: %.2f us a call, mean of %d\n", library, elapsed / repeat, repeat);
  return 0;
}

static int run(const char* library, const char* request, const char* response, int repeat) {
  static TVMFFIAny inputs[MAX_TENSORS];
  TVMFFIAny vm, result;
  int count = 0;
  int rc = read_request(request, inputs, &count);
  if (rc == 0 && (rc = load(library, &vm)) == 0) {
    rc = call_member(&vm, "main", inputs, count, &result);
    if (rc == 0) {
      rc = write_response(response, &result);
      release(&result);
    }
    if (rc == 0 && repeat > 0) rc = time_calls(library, &vm, inputs, count, repeat);
    release(&vm);
  }
  for (int i = 0; i < count; ++i) release(&inputs[i]);
  if (rc != 0) fprintf(stderr, "error: run failed: %s\n", library);
  return rc;
}

static int read_line(FILE* file, char* line, int size) {
  if (fgets(line, size, file) == NULL) return -1;
  line[strcspn(line, "\n")] = '\0';
  return 0;
}

static int run_batch(const char* path, int repeat) {
  static char lines[3][8192];
  FILE* file = fopen(path, "r");
  int failed = 0;
  if (file == NULL) return fail("cannot open batch file", path);
  while (read_line(file, lines[0], sizeof(lines[0])) == 0) {
    if (read_line(file, lines[1], sizeof(lines[1])) != 0 || read_line(file, lines[2], sizeof(lines[2])) != 0) {
      failed |= fail("batch file", "the number of lines is not a multiple of three");
      break;
    }
    failed |= run(lines[0], lines[1], lines[2], repeat);
  }
  fclose(file);
  return failed;
}

int main(int argc, char** argv) {
  int repeat = 0, next = 1, failed = 0;
  if (next + 1 < argc && strcmp(argv[next], "--repeat") == 0) {
    repeat = atoi(argv[next + 1]);
    next += 2;
  }
  if (next + 2 == argc && strcmp(argv[next], "--batch") == 0) return run_batch(argv[next + 1], repeat) == 0 ? 0 : 1;
  if (next >= argc || (argc - next) % 3 != 0) {
    fprintf(stderr, "usage: %s [--repeat N] (--batch FILE | LIBRARY REQUEST RESPONSE...)\n", argv[0]);
    return 2;
  }
  for (; next < argc; next += 3) failed |= run(argv[next], argv[next + 1], argv[next + 2], repeat);
  return failed == 0 ? 0 : 1;
}
