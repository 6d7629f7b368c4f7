/* A TVM RPC server with nothing but the TVM runtime: no Python, no C++.
 *
 *   rpc-server [--host ADDRESS] [--port PORT]
 *
 * Prints "listening on ADDRESS:PORT" (port 0 takes a free one) and serves one connection after the other, each in a
 * process of its own with a folder of its own, which is removed afterwards. A process whose client is gone is killed.
 * Whoever can connect can run code as the user of this program: listen on other than 127.0.0.1 in trusted networks only.
 *
 * Beside what TVM's servers offer there is "lutc.server_info", a line "tvm=VERSION machine=NAME features=A,B,..." with
 * the CPU's features as /proc/cpuinfo names them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ffi.h"

#ifndef LUTC_TVM_VERSION
#define LUTC_TVM_VERSION "unknown"
#endif

enum { kMagic = 0xff271, kMismatch = kMagic + 2, kMaxKey = 1024, kHandshakeSeconds = 10, kGraceMs = 2000 };

static char work_folder[512];
static volatile sig_atomic_t stopped;

static void stop(int signal) {
  (void)signal;
  stopped = 1;
}

/* ---- functions that clients call --------------------------------------------------------------------------------- */

static TVMFFIByteArray text_of(const TVMFFIAny* value) {
  TVMFFIByteArray none = {"", 0};
  if (value->type_index == kTVMFFIRawStr) return (TVMFFIByteArray){value->v_c_str, strlen(value->v_c_str)};
  if (value->type_index == kTVMFFISmallStr) return (TVMFFIByteArray){value->v_bytes, value->small_str_len};
  if (value->type_index != kTVMFFIStr) return none;
  return *(const TVMFFIByteArray*)((const char*)value->v_obj + sizeof(TVMFFIObject));
}

/* name -> path in the connection's folder; what stands before a slash is dropped. */
static int path_of(const TVMFFIAny* args, int32_t count, char* path, size_t size) {
  TVMFFIByteArray name = count == 1 ? text_of(args) : (TVMFFIByteArray){"", 0};
  const char* slash = memrchr(name.data, '/', name.size);
  size_t skip = slash == NULL ? 0 : (size_t)(slash - name.data) + 1;
  int written = snprintf(path, size, "%s/%.*s", work_folder, (int)(name.size - skip), name.data + skip);
  if (name.size > skip && written > 0 && (size_t)written < size) return 0;
  TVMFFIErrorSetRaisedFromCStr("ValueError", "a file name is needed");
  return -1;
}

static int return_text(const char* text, TVMFFIAny* result) {
  TVMFFIByteArray bytes = {text, strlen(text)};
  return TVMFFIStringFromByteArray(&bytes, result);
}

static int workpath(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[1024];
  (void)self;
  return path_of(args, count, path, sizeof(path)) == 0 ? return_text(path, result) : -1;
}

static int load_module(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[1024];
  TVMFFIByteArray key = {"ffi.ModuleLoadFromFile", 22};
  TVMFFIObjectHandle load = NULL;
  (void)self;
  if (path_of(args, count, path, sizeof(path)) != 0 || TVMFFIFunctionGetGlobal(&key, &load) != 0) return -1;
  TVMFFIAny name = string(path);
  int rc = TVMFFIFunctionCall(load, &name, 1, result);
  TVMFFIObjectDecRef(load);
  return rc;
}

static const struct {
  int word, bit;
  const char* name;
} kFeatures[] = {
    {AT_HWCAP, 1, "asimd"},      {AT_HWCAP, 8, "atomics"},   {AT_HWCAP, 10, "asimdhp"}, {AT_HWCAP, 12, "asimdrdm"},
    {AT_HWCAP, 13, "jscvt"},     {AT_HWCAP, 14, "fcma"},     {AT_HWCAP, 15, "lrcpc"},   {AT_HWCAP, 17, "sha3"},
    {AT_HWCAP, 20, "asimddp"},   {AT_HWCAP, 22, "sve"},      {AT_HWCAP, 23, "asimdfhm"}, {AT_HWCAP, 25, "uscat"},
    {AT_HWCAP, 26, "ilrcpc"},    {AT_HWCAP, 27, "flagm"},    {AT_HWCAP2, 1, "sve2"},    {AT_HWCAP2, 7, "flagm2"},
    {AT_HWCAP2, 8, "frint"},     {AT_HWCAP2, 13, "i8mm"},    {AT_HWCAP2, 14, "bf16"},
};

static int server_info(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  struct utsname name;
  char text[1024];
  const char* comma = "";
  (void)self, (void)args, (void)count;
  uname(&name);
  int used = snprintf(text, sizeof(text), "tvm=%s machine=%s features=", LUTC_TVM_VERSION, name.machine);
  for (size_t i = 0; i < sizeof(kFeatures) / sizeof(kFeatures[0]); ++i) {
    if (getauxval((unsigned long)kFeatures[i].word) >> kFeatures[i].bit & 1) {
      used += snprintf(text + used, sizeof(text) - (size_t)used, "%s%s", comma, kFeatures[i].name);
      comma = ",";
    }
  }
  return return_text(text, result);
}

static int define(const char* name, TVMFFISafeCallType function) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFIFunctionCreate(NULL, function, NULL, &handle) != 0) return fail_raised(name);
  int rc = TVMFFIFunctionSetGlobal(&key, handle, 1);
  TVMFFIObjectDecRef(handle);
  return rc == 0 ? 0 : fail_raised(name);
}

/* ---- a connection ------------------------------------------------------------------------------------------------ */

static int receive(int fd, void* data, size_t size) {
  return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

static int send_int(int fd, int32_t value) { return send(fd, &value, 4, MSG_NOSIGNAL) == 4 ? 0 : -1; }

/* The client's greeting: magic, length and text of its key, "client:" for a server without a key of its own. */
static int greet(int fd) {
  static const char kKey[] = "server:";
  struct timeval limit = {kHandshakeSeconds, 0}, none = {0, 0};
  int32_t magic = 0, size = 0;
  char key[kMaxKey + 1];
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  if (receive(fd, &magic, 4) != 0 || magic != kMagic || receive(fd, &size, 4) != 0) return -1;
  if (size < 0 || size > kMaxKey || receive(fd, key, (size_t)size) != 0) return -1;
  key[size] = '\0';
  if (strncmp(key, "client:", 7) != 0 || (key[7] != '\0' && key[7] != ' ')) {
    send_int(fd, kMismatch);
    return -1;
  }
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
  if (send_int(fd, kMagic) != 0 || send_int(fd, (int32_t)strlen(kKey)) != 0) return -1;
  return send(fd, kKey, strlen(kKey), MSG_NOSIGNAL) == (ssize_t)strlen(kKey) ? 0 : -1;
}

static int serve(int fd) {
  TVMFFIAny socket_fd = integer(fd), none;
  if (define("tvm.rpc.server.workpath", workpath) != 0 || define("tvm.rpc.server.load_module", load_module) != 0 ||
      define("lutc.server_info", server_info) != 0) {
    return 1;
  }
  return call_global("rpc.ServerLoop", &socket_fd, 1, &none) == 0 ? 0 : 1;
}

static void remove_folder(const char* path) {
  char name[1024];
  DIR* folder = opendir(path);
  for (struct dirent* entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
    if (entry->d_name[0] != '.') unlink(name);
  }
  if (folder != NULL) closedir(folder);
  rmdir(path);
}

/* Until the process has ended, or its client has hung up and it does not end by itself. */
static void watch(pid_t child, int fd) {
  int gone = 0;
  while (waitpid(child, NULL, WNOHANG) == 0) {
    struct pollfd hangup = {fd, POLLRDHUP, 0};
    if (gone == 0 && poll(&hangup, 1, 100) > 0) gone = 1;
    if (gone > 0) {
      usleep(50 * 1000);
      gone += 50;
    }
    if (gone > kGraceMs || stopped) kill(child, SIGKILL);
  }
}

static void handle(int fd, int listener) {
  const char* base = getenv("TMPDIR");
  if (base == NULL) base = access("/tmp", W_OK) == 0 ? "/tmp" : ".";
  snprintf(work_folder, sizeof(work_folder), "%s/lutc-rpc-XXXXXX", base);
  if (greet(fd) != 0) return;
  if (mkdtemp(work_folder) == NULL) {
    fail("cannot make a folder", work_folder);
    return;
  }
  pid_t parent = getpid(), child = fork();
  if (child == 0) {
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    close(listener);
    _exit(serve(fd)); /* the runtime's threads are not waited for */
  }
  if (child > 0) watch(child, fd);
  if (child < 0) fail("cannot fork", strerror(errno));
  remove_folder(work_folder);
}

static int listen_on(const char* host, int port) {
  struct sockaddr_in address = {0};
  socklen_t size = sizeof(address);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)port);
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1) return fail("not an IPv4 address", host);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0 || listen(fd, 4) != 0 ||
      getsockname(fd, (struct sockaddr*)&address, &size) != 0) {
    return fail("cannot listen", strerror(errno));
  }
  printf("listening on %s:%d\n", host, ntohs(address.sin_port));
  fflush(stdout);
  return fd;
}

int main(int argc, char** argv) {
  const char* host = "127.0.0.1";
  int port = 9090;
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 < argc && strcmp(argv[i], "--host") == 0) {
      host = argv[i + 1];
    } else if (i + 1 < argc && strcmp(argv[i], "--port") == 0) {
      port = atoi(argv[i + 1]);
    } else {
      fprintf(stderr, "usage: %s [--host ADDRESS] [--port PORT]\n", argv[0]);
      return 2;
    }
  }
  struct sigaction on_stop = {0};
  on_stop.sa_handler = stop; /* without SA_RESTART: accept returns */
  sigaction(SIGTERM, &on_stop, NULL);
  sigaction(SIGINT, &on_stop, NULL);
  signal(SIGPIPE, SIG_IGN);
  setenv("TVM_BIND_THREADS", "0", 0);
  int listener = listen_on(host, port);
  if (listener < 0) return 1;
  while (!stopped) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0 && errno != EINTR && errno != ECONNABORTED) return fail("cannot accept", strerror(errno)) == 0;
    if (fd < 0) continue;
    handle(fd, listener);
    close(fd);
  }
  return 0;
}
