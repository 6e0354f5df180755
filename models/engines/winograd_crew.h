// Part of winograd.cpp: the threads of one call.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// Threads of one call, which take units of a plan's work under one lock, and sleep while there is none for them. A plan has
//   bool complete(), int width() (how many threads it can use), bool take(int& unit) (in: the thread's last one, or -1),
//   double execute(int unit, int thread) (outside the lock; returns the work done), void finish(int unit).
class Crew {
 public:
  typedef int (*Tell)(double, void*);
  Crew(int threads, Tell tell, void* context) : threads_(threads), tell_(tell), context_(context) { started_.reserve(threads); }

  template <class Plan>
  bool run(Plan& plan) {  // false if it was stopped
    try {
      for (int i = 1; i < std::min(threads_, plan.width()); i++) started_.emplace_back([this, &plan, i] { work(plan, i); });
    } catch (const std::exception&) {  // then fewer: slower, the same bytes
    }
    work(plan, 0);
    for (std::thread& thread : started_) thread.join();
    started_.clear();
    return !stopped_;
  }
  bool report() {
    std::unique_lock<std::mutex> lock(mutex_);
    report(lock);
    return !stopped_;
  }

 private:
  typedef std::chrono::steady_clock Clock;
  static constexpr std::chrono::milliseconds INTERVAL{20};

  template <class Plan>
  void work(Plan& plan, int me) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (int unit = -1;;) {
      if (me == 0 && Clock::now() - told_ >= INTERVAL) report(lock);
      if (stopped_ || plan.complete()) break;
      if (!paused_ && plan.take(unit)) {
        if (waiting_) wake_.notify_one();  // there may be more; whoever finds none wakes nobody
        lock.unlock();
        const double done = plan.execute(unit, me);
        lock.lock();
        plan.finish(unit);
        done_ += done;
      } else {
        waiting_++;
        if (me) wake_.wait(lock); else wake_.wait_for(lock, INTERVAL);
        waiting_--;
      }
    }
    wake_.notify_all();
  }
  void report(std::unique_lock<std::mutex>& lock) {  // the caller may run a whole other picture meanwhile: the others sleep
    const double done = done_;
    done_ = 0;
    paused_ = true;
    lock.unlock();
    const int stop = tell_(done, context_);
    lock.lock();
    paused_ = false;
    stopped_ = stopped_ || stop;
    told_ = Clock::now();
    wake_.notify_all();
  }

  const int threads_;
  const Tell tell_;
  void* const context_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> started_;
  Clock::time_point told_ = Clock::now();
  double done_ = 0;
  int waiting_ = 0;
  bool paused_ = false, stopped_ = false;
};

// The plan of `count` units that do not depend on each other.
template <class Execute>
struct Independent {
  const int count;
  const Execute& run;
  int taken = 0, finished = 0;
  bool complete() const { return finished == count; }
  int width() const { return count; }
  bool take(int& unit) { return taken < count && (unit = taken++, true); }
  double execute(int unit, int thread) const { return run(unit, thread); }
  void finish(int) { finished++; }
};
template <class Execute>
bool for_each(Crew& crew, int count, const Execute& run) {
  Independent<Execute> plan{count, run};
  return crew.run(plan);
}
