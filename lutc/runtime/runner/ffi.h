/* What the programs of this folder share: errors on stderr, values for TVM's C interface, calls of global functions. */
#ifndef LUTC_FFI_H_
#define LUTC_FFI_H_

#include <stdio.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

static inline int fail(const char* what, const char* detail) {
  fprintf(stderr, "error: %s: %s\n", what, detail);
  return -1;
}

static inline int fail_raised(const char* what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) return fail(what, "unknown error");
  const TVMFFIErrorCell* cell = (const TVMFFIErrorCell*)((const char*)error + sizeof(TVMFFIObject));
  fprintf(stderr, "error: %s: %.*s: %.*s\n", what, (int)cell->kind.size, cell->kind.data, (int)cell->message.size,
          cell->message.data);
  TVMFFIObjectDecRef(error);
  return -1;
}

static inline void release(TVMFFIAny* value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  memset(value, 0, sizeof(*value));
}

static inline TVMFFIAny integer(int64_t x) {
  TVMFFIAny a = {0};
  a.type_index = kTVMFFIInt;
  a.v_int64 = x;
  return a;
}

static inline TVMFFIAny string(const char* x) {
  TVMFFIAny a = {0};
  a.type_index = kTVMFFIRawStr;
  a.v_c_str = x;
  return a;
}

static inline int call_global(const char* name, TVMFFIAny* args, int num_args, TVMFFIAny* result) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  memset(result, 0, sizeof(*result));
  if (TVMFFIFunctionGetGlobal(&key, &function) != 0) return fail_raised(name);
  if (function == NULL) return fail(name, "the TVM runtime has no such function");
  int rc = TVMFFIFunctionCall(function, args, num_args, result);
  TVMFFIObjectDecRef(function);
  return rc == 0 ? 0 : fail_raised(name);
}

#endif /* LUTC_FFI_H_ */
