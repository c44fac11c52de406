//! A [`Disk`] as SQLite sees it: a VFS. All that is unsafe in this package is here.
//!
//! Written by hand: of the crates that would do it, `sqlite-plugin` needs libclang to build and tells neither of
//! checkpoints nor of directory syncs, and `sqlite-vfs` does without WAL.
//!
//! It behaves as SQLite's own VFS does on Linux, hence the same sector size and the same promise: bytes that are not
//! being written do not change ("powersafe overwrite").

#![allow(unsafe_code, reason = "a VFS is a table of C functions; each block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};

use rusqlite::ffi;

use crate::disk::{Disk, Failed, OpenFile, Role};
use crate::shm::Wanted;

/// A name under which SQLite finds a disk, which may be changed for another while no database is open on it.
pub struct Mount {
    name: &'static str,
    disk: &'static Mutex<Arc<Disk>>,
    leaves_logs: bool,
}

impl Mount {
    /// Registers the name, for as long as the process lives: SQLite keeps what it is given.
    pub fn register(name: &'static str, disk: Arc<Disk>) -> Self {
        let disk: &'static Mutex<Arc<Disk>> = Box::leak(Box::new(Mutex::new(disk)));
        let z_name = CString::new(name).expect("a name has no zero byte").into_raw();
        // SAFETY: a null name asks for the default VFS. SQLite is built with one, and it lives as long as the process.
        let system = unsafe { *ffi::sqlite3_vfs_find(std::ptr::null()) };
        let vfs = ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<Slot>() as c_int,
            pNext: std::ptr::null_mut(),
            zName: z_name,
            pAppData: std::ptr::from_ref(disk).cast_mut().cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            // The rest (clock, randomness, sleep) is the system's, whose functions look at none of the above.
            ..system
        };
        // SAFETY: the table is complete and leaked, hence valid for ever; registering is serialised within SQLite.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
        assert_eq!(code, ffi::SQLITE_OK, "SQLite takes a VFS");
        Self { name, disk, leaves_logs: false }
    }

    /// What would be written once more is left as it is: for showing that the test would notice.
    pub fn leaving_logs(self) -> Self {
        Self { leaves_logs: true, ..self }
    }

    pub(crate) fn leaves_logs(&self) -> bool {
        self.leaves_logs
    }

    /// The name for SQLite.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The disk that is there now.
    pub(crate) fn disk(&self) -> Arc<Disk> {
        self.disk.lock().expect("no thread panics").clone()
    }

    /// What is opened from now on is on this disk. Files that are open stay on theirs.
    pub fn insert(&self, disk: Arc<Disk>) {
        *self.disk.lock().expect("no thread panics") = disk;
    }
}

/// What SQLite reserves for each open file: its own head, then ours.
#[repr(C)]
struct Slot {
    head: ffi::sqlite3_file,
    file: *mut OpenFile,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The disk behind a VFS.
///
/// # Safety
///
/// `vfs` is one that [`Mount::register`] made.
unsafe fn disk(vfs: *mut ffi::sqlite3_vfs) -> Arc<Disk> {
    // SAFETY: such a VFS is never freed, and its application data is the leaked mutex.
    let disk = unsafe { &*(*vfs).pAppData.cast::<Mutex<Arc<Disk>>>() };
    disk.lock().expect("no thread panics").clone()
}

/// Our file behind SQLite's.
///
/// # Safety
///
/// `file` was opened by [`open`] and is not closed, and nobody else uses it during the call: SQLite gives each connection
/// files of its own and calls from one thread at a time.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: `open` put a box's pointer there, which `close` alone frees.
    unsafe { &mut *(*file.cast::<Slot>()).file }
}

/// # Safety
///
/// `text` is null or ends with a zero byte.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller says that it ends.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let slot = file.cast::<Slot>();
    // SAFETY: SQLite hands over `szOsFile` writable bytes. Without methods it will not close what did not open.
    unsafe { (*slot).head.pMethods = std::ptr::null() };
    let role = match flags {
        _ if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 => Role::Database,
        _ if flags & ffi::SQLITE_OPEN_WAL != 0 => Role::Log,
        _ if flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) != 0 => Role::Journal,
        _ => Role::Temporary,
    };
    // SAFETY: the VFS is ours, and a file's name ends with a zero byte or is null.
    let (disk, name) = unsafe { (disk(vfs), text(name)) };
    let name = name.filter(|_| role != Role::Temporary);
    let has = |flag| flags & flag != 0;
    match disk.open(name, role, has(ffi::SQLITE_OPEN_CREATE), has(ffi::SQLITE_OPEN_READONLY)) {
        Ok(opened) => {
            // SAFETY: as above; the flags go out where SQLite wants them, which may be nowhere.
            unsafe {
                (*slot).file = Box::into_raw(Box::new(opened));
                (*slot).head.pMethods = &raw const METHODS;
                if !flags_out.is_null() {
                    *flags_out = flags;
                }
            }
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_CANTOPEN,
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: the VFS is ours, and the name ends with a zero byte.
    let (disk, name) = unsafe { (disk(vfs), text(name)) };
    match disk.delete(name.unwrap_or_default(), sync_directory != 0) {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => ffi::SQLITE_IOERR_DELETE,
    }
}

unsafe extern "C" fn access(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int, result: *mut c_int) -> c_int {
    // SAFETY: the VFS is ours, and the name ends with a zero byte.
    let (disk, name) = unsafe { (disk(vfs), text(name)) };
    let Ok(exists) = disk.exists(name.unwrap_or_default()) else { return ffi::SQLITE_IOERR_ACCESS };
    // SAFETY: SQLite gives a place for the result.
    unsafe { *result = c_int::from(exists) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    into: *mut c_char,
) -> c_int {
    // SAFETY: the name ends with a zero byte.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `into` has `room` bytes, which is enough, and is another place than the name.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), into, bytes.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the box that `open` made; SQLite closes a file once and does not use it afterwards.
    drop(unsafe { Box::from_raw((*file.cast::<Slot>()).file) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    let length = length as usize;
    // SAFETY: the file is open, and `into` has room for `length` bytes. Zeroed first: a slice must not be uninitialised,
    // and zeros are what has to follow a short read.
    let (file, into) = unsafe {
        into.cast::<u8>().write_bytes(0, length);
        (opened(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), length))
    };
    match file.read(at as usize, into) {
        Ok(read) if read == length => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open, and `from` has `length` bytes.
    let (file, from) = unsafe { (opened(file), std::slice::from_raw_parts(from.cast::<u8>(), length as usize)) };
    match file.write(at as usize, from) {
        Ok(()) => ffi::SQLITE_OK,
        Err(Failed::Full) => ffi::SQLITE_FULL,
        Err(_) => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { opened(file) };
    file.truncate(length as usize).map_or(ffi::SQLITE_IOERR_TRUNCATE, |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { opened(file) };
    file.sync().map_or(ffi::SQLITE_IOERR_FSYNC, |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let Ok(found) = unsafe { opened(file) }.size() else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: SQLite gives a place for the size.
    unsafe { *size = found as ffi::sqlite3_int64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { opened(file) };
    file.lock(level).map_or(ffi::SQLITE_BUSY, |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    unsafe { opened(file) }.unlock(level);
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    // SAFETY: the file is open, and SQLite gives a place for the result.
    unsafe { *result = c_int::from(opened(file).is_reserved()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, _: *mut c_void) -> c_int {
    // SAFETY: the file is open.
    let file = unsafe { opened(file) };
    match operation {
        ffi::SQLITE_FCNTL_COMMIT_PHASETWO => file.committed(),
        ffi::SQLITE_FCNTL_CKPT_START => file.checkpoint_begins(),
        _ => return ffi::SQLITE_NOTFOUND,
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    into: *mut *mut c_void,
) -> c_int {
    // SAFETY: the file is open.
    let (shm, _) = unsafe { opened(file) }.shm();
    let region = shm.map(region as usize, size as usize, extend != 0);
    // SAFETY: SQLite gives a place for the pointer. The region stays until this connection and all others have let go.
    unsafe { *into = region.unwrap_or(std::ptr::null_mut()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let (shm, held) = unsafe { opened(file) }.shm();
    let wanted = match flags {
        _ if flags & ffi::SQLITE_SHM_UNLOCK != 0 => Wanted::Nothing,
        _ if flags & ffi::SQLITE_SHM_SHARED != 0 => Wanted::Shared,
        _ => Wanted::Exclusive,
    };
    shm.lock(held, first as usize, count as usize, wanted).map_or(ffi::SQLITE_BUSY, |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open, and SQLite no longer uses the regions.
    unsafe { opened(file) }.leave_shm();
    ffi::SQLITE_OK
}
