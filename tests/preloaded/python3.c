/* An interpreter for Ansible in the test lab's Dom0: a module that Ansible sends on stdin is run by a Python that has Ansible's own
 * libraries loaded already (server.py), which saves an emulated machine five of the seven seconds that a module takes to
 * start. All else, and everything where no server answers, is Debian's Python as it is.
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PYTHON "/usr/bin/python3"
#ifndef ANSWERS /* who, and to which calls: tests/fleet has a second of this kind */
#define ANSWERS "/run/preloaded-python"
#define HANDS_OVER (count == 1)
#endif

static int hand_over(int server) { /* stdin, stdout and stderr */
  char byte = 0, room[CMSG_SPACE(3 * sizeof(int))] = {0};
  struct iovec data = {&byte, 1};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(3 * sizeof(int));
  memcpy(CMSG_DATA(head), (int[]){0, 1, 2}, 3 * sizeof(int));
  return sendmsg(server, &message, MSG_NOSIGNAL) == 1;
}

int main(int count, char **arguments) {
  struct sockaddr_un address = {AF_UNIX, ANSWERS};
  if (HANDS_OVER && getuid() == 0) {
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(server, (struct sockaddr *)&address, sizeof address) == 0 && hand_over(server)) {
      unsigned char status;
      return read(server, &status, 1) == 1 ? status : 137; /* no answer: it was killed */
    }
  }
  execv(PYTHON, arguments);
  return 127;
}
