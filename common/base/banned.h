/* banned.h - calls that may not be written in this project. Included before every file by the build.
 *
 * Each has a bounded or checked sibling: snprintf, str_copy(), strtoll with checks, strtok_r. */
#ifndef CORRAL_BANNED_H
#define CORRAL_BANNED_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#pragma GCC poison strcpy strcat sprintf vsprintf gets strtok atoi atol atoll atof gmtime localtime ctime asctime tmpnam
#endif
