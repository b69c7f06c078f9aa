//! Simulated time and a single-threaded executor: tasks run in the order in which they were woken, timers in the order
//! of their deadlines. Owns which process a task belongs to, so that a process can be killed (its tasks vanish) or
//! paused (they go on when it is resumed, however late). No real clock, no threads, no randomness.

use parking_lot::Mutex;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// A process of the simulated cluster, in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId(usize);

/// The process of the world itself: the network, the faults, the clock. It is never killed.
pub(crate) const WORLD: ProcessId = ProcessId(0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Paused,
    Dead,
}

struct Process {
    life: Life,
    tasks: Vec<usize>,
    /// Tasks that were woken while the process was paused.
    parked: Vec<usize>,
}

struct Task {
    process: ProcessId,
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().push_back(self.task);
    }
}

/// Time, timers and tasks.
pub(crate) struct Engine {
    now: Cell<Duration>,
    sequence: Cell<u64>,
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    tasks: RefCell<Vec<Option<Task>>>,
    ready: Arc<Mutex<VecDeque<usize>>>,
    processes: RefCell<Vec<Process>>,
    current: Cell<ProcessId>,
    steps: Cell<u64>,
}

impl Engine {
    pub(crate) fn new() -> Rc<Self> {
        let world = Process { life: Life::Running, tasks: Vec::new(), parked: Vec::new() };
        Rc::new(Self {
            now: Cell::default(),
            sequence: Cell::default(),
            timers: RefCell::default(),
            tasks: RefCell::default(),
            ready: Arc::default(),
            processes: RefCell::new(vec![world]),
            current: Cell::new(WORLD),
            steps: Cell::default(),
        })
    }

    /// Time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Polls done so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// The process whose task runs now.
    pub(crate) fn current(&self) -> ProcessId {
        self.current.get()
    }

    /// A new process.
    pub(crate) fn process(&self) -> ProcessId {
        let mut processes = self.processes.borrow_mut();
        processes.push(Process { life: Life::Running, tasks: Vec::new(), parked: Vec::new() });
        ProcessId(processes.len() - 1)
    }

    pub(crate) fn is_alive(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process.0].life != Life::Dead
    }

    pub(crate) fn is_running(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process.0].life == Life::Running
    }

    /// Starts a task of the process that runs now.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.spawn_on(self.current(), future);
    }

    /// Starts a task of a process; one that is dead starts nothing.
    pub(crate) fn spawn_on(&self, process: ProcessId, future: impl Future<Output = ()> + 'static) {
        if !self.is_alive(process) {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let id = tasks.len();
        let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: Arc::clone(&self.ready) }));
        tasks.push(Some(Task { process, future: Box::pin(future), waker }));
        self.processes.borrow_mut()[process.0].tasks.push(id);
        self.ready.lock().push_back(id);
    }

    /// The process ends here and now: its tasks vanish.
    pub(crate) fn kill(&self, process: ProcessId) {
        let gone = {
            let mut processes = self.processes.borrow_mut();
            let process = &mut processes[process.0];
            process.life = Life::Dead;
            process.parked.clear();
            std::mem::take(&mut process.tasks)
        };
        for id in gone {
            // Dropped without a borrow: what a task held may wake others.
            let task = self.tasks.borrow_mut()[id].take();
            drop(task);
        }
    }

    /// The process stops where it stands.
    pub(crate) fn pause(&self, process: ProcessId) {
        let life = &mut self.processes.borrow_mut()[process.0].life;
        if *life == Life::Running {
            *life = Life::Paused;
        }
    }

    /// A paused process goes on, with everything that has happened meanwhile.
    pub(crate) fn resume(&self, process: ProcessId) {
        let mut processes = self.processes.borrow_mut();
        let process = &mut processes[process.0];
        if process.life == Life::Paused {
            process.life = Life::Running;
            self.ready.lock().extend(process.parked.drain(..));
        }
    }

    /// Runs one task, or moves time to the next timer. False if nothing is left to do, or `until` is reached.
    pub(crate) fn step(&self, until: Duration) -> bool {
        let ready = self.ready.lock().pop_front();
        if let Some(id) = ready {
            self.poll(id);
            return true;
        }
        let mut timers = self.timers.borrow_mut();
        let Some((&(at, sequence), _)) = timers.first_key_value() else { return false };
        if at > until {
            self.now.set(until);
            return false;
        }
        self.now.set(at);
        let waker = timers.remove(&(at, sequence));
        drop(timers);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    fn poll(&self, id: usize) {
        let Some(mut task) = self.tasks.borrow_mut()[id].take() else { return };
        let process = task.process;
        {
            let mut processes = self.processes.borrow_mut();
            let process = &mut processes[process.0];
            if process.life == Life::Paused {
                process.parked.push(id);
                drop(processes);
                self.tasks.borrow_mut()[id] = Some(task);
                return;
            }
        }
        self.steps.set(self.steps.get() + 1);
        let before = self.current.replace(process);
        let poll = task.future.as_mut().poll(&mut Context::from_waker(&task.waker.clone()));
        self.current.set(before);
        if poll.is_pending() && self.is_alive(process) {
            self.tasks.borrow_mut()[id] = Some(task);
        }
    }

    /// Drops everything, so that nothing refers to the world any more.
    pub(crate) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        self.timers.borrow_mut().clear();
    }

    /// Waits for a time.
    pub(crate) fn sleep(self: &Rc<Self>, time: Duration) -> Sleep {
        Sleep { engine: Rc::clone(self), until: self.now() + time, is_set: false }
    }
}

/// See [`Engine::sleep`].
pub(crate) struct Sleep {
    engine: Rc<Engine>,
    until: Duration,
    is_set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.engine.now() >= self.until {
            return Poll::Ready(());
        }
        if !self.is_set {
            self.is_set = true;
            let sequence = self.engine.sequence.get();
            self.engine.sequence.set(sequence + 1);
            self.engine.timers.borrow_mut().insert((self.until, sequence), context.waker().clone());
        }
        Poll::Pending
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The giving end of a [`promise`]; the first value counts.
pub(crate) struct Promise<T>(Rc<RefCell<Slot<T>>>);

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Promise<T> {
    pub(crate) fn give(&self, value: T) {
        let mut slot = self.0.borrow_mut();
        if slot.value.is_none() {
            slot.value = Some(value);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }
}

/// The waiting end of a [`promise`].
pub(crate) struct Promised<T>(Rc<RefCell<Slot<T>>>);

impl<T> Future for Promised<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A value that comes later.
pub(crate) fn promise<T>() -> (Promise<T>, Promised<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (Promise(Rc::clone(&slot)), Promised(slot))
}

/// Waits for a future, but not longer than until `sleep` ends.
pub(crate) async fn within<T>(mut sleep: Sleep, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        Pin::new(&mut sleep).poll(context).map(|()| None)
    })
    .await
}
