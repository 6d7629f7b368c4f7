/* What the generated calls.c defines: the kernels to call, and the index of the tensor behind each argument. */
#ifndef LUTC_CALLS_H_
#define LUTC_CALLS_H_

#include <tvm/ffi/c_api.h>

typedef struct {
  int (*kernel)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
  int num_args;
  const int* args;
} Call;

extern const Call kCalls[];
extern const int kNumCalls;
extern const int kOwners[]; /* of each tensor: the one whose memory it shares, mostly itself */

#endif /* LUTC_CALLS_H_ */
