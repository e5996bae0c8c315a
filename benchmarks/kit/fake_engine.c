/* A fake LLM engine: one epoll thread that is never the bottleneck.
 *
 *     fake_engine [-p PORT] [-u UNIX_PATH]
 *
 * A POST to any path gets a short JSON reply or, with "stream":true, as many server-sent chunks as
 * "max_tokens" says: each in an HTTP chunk and a send() of its own, as engines send them. "seed" is
 * the time between two chunks in microseconds, 0 for as fast as the socket takes them. Streams of one
 * period tick together, like the slots of a batched decoder. Each chunk holds "@" and 19 digits, the
 * moment at which it was sent (CLOCK_MONOTONIC, ns): a client on this machine knows how long it took.
 *
 * It knows as much HTTP as measuring needs, and no more.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_STREAMS 8192
#define SECOND 1000000000LL
#define ID "\"id\":\"chatcmpl-0123456789abcdef\",\"created\":1750000000,\"model\":\"fake\""
#define CHUNK "data: {" ID ",\"object\":\"chat.completion.chunk\",\"choices\":"
#define TEXT \
  "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut " \
  "labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco " \
  "laboris nisi ut aliquip ex ea commodo consequat. Duis aute irure dolor in reprehenderit."

typedef struct {
  int fd, slot;               /* slot: where it is in streams[] */
  bool streaming, wants_out, wants_usage;
  long tokens, left;          /* chunks in all, and still to send */
  int64_t period, due;        /* ns; a period of 0 is "at once" */
  char *in;                   /* what came and is not handled yet */
  size_t in_len, in_cap;
  char *out;                  /* what the socket did not take yet */
  size_t out_off, out_len, out_cap;
} conn;

static int loop;
static conn *streams[MAX_STREAMS];
static int n_streams;
static char chunk[512], *stamp, whole[2048], last[512];
static size_t chunk_len, whole_len, last_len;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * SECOND + t.tv_nsec;
}

/* One server-sent event as one HTTP chunk. */
static size_t frame(char *to, size_t room, const char *event) {
  return snprintf(to, room, "%zx\r\n%s\r\n", strlen(event), event);
}

static void prepare_replies(void) {
  chunk_len = frame(chunk, sizeof chunk,
                    CHUNK "[{\"index\":0,\"delta\":{\"content\":\"@0000000000000000000 token\"},"
                          "\"finish_reason\":null}]}\n\n");
  stamp = strchr(chunk, '@') + 1;
  last_len = frame(last, sizeof last,
                   CHUNK "[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
  const char *body = "{" ID ",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":"
                     "{\"role\":\"assistant\",\"content\":\"" TEXT "\"},\"finish_reason\":\"stop\"}],"
                     "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":64,\"total_tokens\":76}}";
  whole_len = snprintf(whole, sizeof whole,
                       "HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n%s",
                       strlen(body), body);
}

static void want_out(conn *c, bool on) {
  if (c->wants_out == on) return;
  c->wants_out = on;
  struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &e);
}

static bool pending(const conn *c) { return c->out_off < c->out_len; }

/* Send, or keep for later what the socket does not take; false when the connection is dead. */
static bool put(conn *c, const char *data, size_t size) {
  if (!pending(c)) {
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent == (ssize_t)size) return true;
    if (sent > 0) data += sent, size -= sent;
    c->out_off = c->out_len = 0;
  }
  if (c->out_len + size > c->out_cap) {
    c->out_cap = (c->out_len + size) * 2;
    c->out = realloc(c->out, c->out_cap);
  }
  memcpy(c->out + c->out_len, data, size);
  c->out_len += size;
  want_out(c, true);
  return true;
}

static bool flush(conn *c) {
  while (pending(c)) {
    ssize_t sent = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    c->out_off += sent;
  }
  want_out(c, false);
  return true;
}

static bool put_json(conn *c, const char *body) {
  char reply[512];
  int size = snprintf(reply, sizeof reply,
                      "HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: application/json\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      strlen(body), body);
  return put(c, reply, size);
}

static void stop_streaming(conn *c) {
  if (!c->streaming) return;
  c->streaming = false;
  streams[c->slot] = streams[--n_streams];
  streams[c->slot]->slot = c->slot;
}

static void drop(conn *c) {
  stop_streaming(c);
  close(c->fd);
  free(c->in);
  free(c->out);
  free(c);
}

/* The number after a key, wherever the key stands: good enough for the bodies of this kit. */
static long number(const char *body, size_t size, const char *key, long otherwise) {
  const char *at = memmem(body, size, key, strlen(key));
  if (!at) return otherwise;
  at += strlen(key);
  while (*at == ' ' || *at == ':') at++;
  return strtol(at, 0, 10);
}

static bool asks_for(const char *body, size_t size, const char *key) {
  const char *at = memmem(body, size, key, strlen(key));
  if (!at) return false;
  at += strlen(key);
  while (*at == ' ' || *at == ':') at++;
  return !strncmp(at, "true", 4);
}

static bool start_stream(conn *c, const char *body, size_t size) {
  int64_t t = now();
  long newer = number(body, size, "\"max_completion_tokens\"", 128); /* some gateways rename it */
  c->tokens = c->left = number(body, size, "\"max_tokens\"", newer);
  c->period = number(body, size, "\"seed\"", 0) * 1000;
  c->due = c->period ? (t / c->period + 1) * c->period : 0;
  c->wants_usage = asks_for(body, size, "\"include_usage\"");
  if (n_streams == MAX_STREAMS) return false;
  c->streaming = true;
  c->slot = n_streams;
  streams[n_streams++] = c;
  static const char head[] =
      "HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: text/event-stream\r\n"
      "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
  return put(c, head, sizeof head - 1);
}

static bool answer(conn *c, const char *body, size_t size) {
  if (c->in[0] == 'P')
    return asks_for(body, size, "\"stream\"") ? start_stream(c, body, size)
                                              : put(c, whole, whole_len);
  if (!memcmp(c->in, "GET /v1/models", 14))
    return put_json(c, "{\"object\":\"list\",\"data\":[{\"id\":\"fake\",\"object\":\"model\","
                       "\"created\":1750000000,\"owned_by\":\"fake\"}]}");
  return put_json(c, "{\"status\":\"ok\"}");
}

/* The bytes of the request at the front, or 0 when it is not all there. */
static size_t request_size(conn *c, size_t *head) {
  char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
  if (!end) return 0;
  *head = end - c->in + 4;
  size_t length = 0;
  bool chunked = false;
  for (char *line = strstr(c->in, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
    if (!strncasecmp(line + 2, "content-length:", 15)) length = strtoull(line + 17, 0, 10);
    if (!strncasecmp(line + 2, "transfer-encoding:", 18)) chunked = true;
  }
  if (chunked) {
    char *stop = memmem(end + 2, c->in_len - (*head - 2), "\r\n0\r\n\r\n", 7);
    return stop ? (size_t)(stop - c->in + 7) : 0;
  }
  return *head + length <= c->in_len ? *head + length : 0;
}

/* Answer what has come, up to a stream; false when the connection is dead. */
static bool handle(conn *c) {
  while (!c->streaming && c->in_len) {
    size_t head = 0;
    c->in[c->in_len] = 0;
    size_t size = request_size(c, &head);
    if (!size) return true;
    bool alive = answer(c, c->in + head, size - head);
    c->in_len -= size;
    memmove(c->in, c->in + size, c->in_len);
    if (!alive) return false;
  }
  return true;
}

static bool receive(conn *c) {
  if (c->in_len == c->in_cap) {
    c->in_cap *= 4;
    c->in = realloc(c->in, c->in_cap + 1);
  }
  ssize_t got = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  c->in_len += got;
  return handle(c);
}

/* The next chunk of a stream, or its end. */
static bool step(conn *c) {
  if (c->left-- > 0) {
    int64_t t = now();
    for (char *digit = stamp + 19; digit-- > stamp; t /= 10) *digit = '0' + t % 10;
    c->due += c->period;
    return put(c, chunk, chunk_len);
  }
  bool alive = put(c, last, last_len);
  if (alive && c->wants_usage) {
    char event[400], framed[512];
    snprintf(event, sizeof event,
             CHUNK "[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%ld,\"total_tokens\":%ld}}\n\n",
             c->tokens, 12 + c->tokens);
    alive = put(c, framed, frame(framed, sizeof framed, event));
  }
  stop_streaming(c);
  return alive && put(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24) && handle(c);
}

static int listen_on(int family, const struct sockaddr *address, socklen_t size) {
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, address, size) || listen(fd, 4096)) {
    perror("fake_engine: cannot listen");
    exit(1);
  }
  return fd;
}

static void accept_all(int listener) {
  int fd, one = 1;
  while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on unix sockets: fine */
    conn *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->in_cap = 8192;
    c->in = malloc(c->in_cap + 1);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &e);
  }
}

/* Wait for sockets, at most until the next chunk is due. */
static int wait_for(struct epoll_event *events, int room) {
  int64_t next = INT64_MAX;
  for (int i = 0; i < n_streams; i++)
    if (!pending(streams[i]) && streams[i]->due < next) next = streams[i]->due;
  if (next == INT64_MAX) return epoll_wait(loop, events, room, -1);
  int64_t wait = next - now();
  if (wait < 0) wait = 0;
  struct timespec limit = {wait / SECOND, wait % SECOND};
  return epoll_pwait2(loop, events, room, &limit, 0);
}

int main(int argc, char **argv) {
  int option, port = 0, listeners[2], n_listeners = 0;
  const char *path = 0;
  while ((option = getopt(argc, argv, "p:u:")) != -1) {
    if (option == 'p') port = atoi(optarg);
    else if (option == 'u') path = optarg;
    else return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  prepare_replies();
  loop = epoll_create1(EPOLL_CLOEXEC);
  if (port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listeners[n_listeners++] = listen_on(AF_INET, (void *)&at, sizeof at);
  }
  if (path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    unlink(path);
    listeners[n_listeners++] = listen_on(AF_UNIX, (void *)&at, sizeof at);
  }
  for (int i = 0; i < n_listeners; i++) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listeners[i]};
    epoll_ctl(loop, EPOLL_CTL_ADD, listeners[i], &e);
  }
  fprintf(stderr, "fake_engine: listening on port %d\n", port);
  static struct epoll_event events[512];
  for (;;) {
    int n = wait_for(events, 512);
    for (int i = 0; i < n; i++) {
      int *listener = events[i].data.ptr;
      if (listener >= listeners && listener < listeners + n_listeners) {
        accept_all(*listener);
        continue;
      }
      conn *c = events[i].data.ptr;
      bool alive = !(events[i].events & EPOLLOUT) || flush(c);
      if (alive && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = receive(c);
      if (!alive) drop(c);
    }
    int64_t t = now();
    for (int i = n_streams - 1; i >= 0; i--) {
      conn *c = streams[i];
      if (!pending(c) && c->due <= t && !step(c)) drop(c);
    }
  }
}
