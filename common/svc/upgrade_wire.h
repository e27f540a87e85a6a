/* upgrade_wire.h - how a program and its successor speak: a socket file in the state directory, short texts, a descriptor with some of them.
 * Known to upgrade.c and upgrade_ask.c only. */
#ifndef CORRAL_SVC_UPGRADE_WIRE_H
#define CORRAL_SVC_UPGRADE_WIRE_H
#include <stddef.h>
#include <stdbool.h>

enum { UPGRADE_TEXT = 512 };

/* "DIR/NAME.upgrade"; the length of DIR does not matter. -1 with errno. */
int upgrade_bind(const char *dir, const char *name);      /* in the place of one that was there */
int upgrade_dial(const char *dir, const char *name);
void upgrade_unlink(const char *dir, const char *name);
bool upgrade_send(int fd, const char *text, int passed);  /* passed: -1 = none */
/* 1: a text, and the descriptor that came with it or -1; 0: the end; -1: nothing yet, or an error. */
int upgrade_recv(int fd, char *text, size_t cap, int *ret_passed);
bool upgrade_same_user(int fd);
/* Tells a supervisor that asks to be told (systemd, Type=notify), by NOTIFY_SOCKET. */
void upgrade_notify(const char *text);
#endif
