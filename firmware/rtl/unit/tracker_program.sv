// The program of `unit_tracker`: `Tracker::update` of `cptr_core`, step by step. An instruction is what is done, where
// the result goes, two sources, and a number: the second source, if that is IMM, or the target of a jump.
module unit_tracker_program (
  input  logic [7:0]  address,
  output logic [54:0] instruction
);
  // What is done; `unit_tracker` says how.
  localparam logic [4:0] ADD = 5'd0, SUB = 5'd1, ADDU = 5'd2, SUBU = 5'd3;
  localparam logic [4:0] IADD = 5'd4, ISUB = 5'd5, SHL = 5'd6, SHR = 5'd7;
  localparam logic [4:0] SAR = 5'd8, MAX = 5'd9, MIN = 5'd10, ABS = 5'd11;
  localparam logic [4:0] LZ = 5'd12, MULH = 5'd13, MULS = 5'd14, SQRT = 5'd15;
  localparam logic [4:0] DIVF = 5'd16, DIVI = 5'd17, LDW = 5'd18, STW = 5'd19;
  localparam logic [4:0] LDID = 5'd20, LDL = 5'd21, RAISE = 5'd22, SWEEP = 5'd23;
  localparam logic [4:0] JEQ = 5'd24, JNE = 5'd25, JLTU = 5'd26, JGEU = 5'd27;
  localparam logic [4:0] JGES = 5'd28, CALL = 5'd29, RET = 5'd30, HALT = 5'd31;
  // Numbers that change.
  localparam logic [5:0] VARIANCE = 6'd0, PREDICTED = 6'd1, GAIN = 6'd2, ANGLE = 6'd3;
  localparam logic [5:0] DRIFT = 6'd4, DEVIATION = 6'd5, EVIDENCE = 6'd6, TOKENS = 6'd7;
  localparam logic [5:0] LOCK = 6'd8, POWER = 6'd9, SLOW = 6'd10, FAST = 6'd11;
  localparam logic [5:0] DOT = 6'd12, KNOWN = 6'd13, PHASE = 6'd14, SNR = 6'd15;
  localparam logic [5:0] T0 = 6'd16, T1 = 6'd17, T2 = 6'd18, T3 = 6'd19;
  localparam logic [5:0] LOST = 6'd20, SLOW_SHIFT = 6'd21, SLOW_RAISE = 6'd22, FAST_SHIFT = 6'd23;
  localparam logic [5:0] FAST_RAISE = 6'd24, I = 6'd25, ID = 6'd26, ERROR = 6'd27;
  localparam logic [5:0] BITS = 6'd28, KP = 6'd29, ONE = 6'd30, LINK = 6'd31;
  // Numbers that do not.
  localparam logic [5:0] PROCESS_NOISE = 6'd32, REOPENED = 6'd33, FAST_GAIN = 6'd34, P_SHIFT = 6'd35;
  localparam logic [5:0] I_SHIFT = 6'd36, ACQUIRE = 6'd37, SLACK = 6'd38, THRESHOLD = 6'd39;
  localparam logic [5:0] EXPERTS = 6'd40, WANTED = 6'd41, ZERO = 6'd62;
  localparam logic [5:0] IMM = 6'd63;
  localparam logic [5:0] NONE = 6'd0;
  // Where jumps go.
  localparam int unsigned DOT_NEXT = 20, DOT_SKIP = 29, DOT_DONE = 31, COSINE = 39;
  localparam int unsigned SOME_POWER = 66, FOLLOW = 74, ACQUIRING = 81, TRACKING = 93;
  localparam int unsigned IN_LOCK = 127, CALM = 134, KALMAN = 138, BEGUN = 140;
  localparam int unsigned CONVERGED = 145, RAISE_ALL = 162, RAISE_NEXT = 163, RAISE_SKIP = 167;
  localparam int unsigned RAISED = 169, SAVE = 180, LOG2 = 194, DIVIDE = 213;
  localparam int unsigned DIVIDE_UP = 218, SCALE = 220, SCALED = 225, NORMAL = 233;

  always_comb begin
    case (address)
      // The state of the layer.
      8'd0: instruction = {LDW, VARIANCE, ZERO, ZERO, 32'd0};
      8'd1: instruction = {LDW, PREDICTED, ZERO, ZERO, 32'd1};
      8'd2: instruction = {LDW, GAIN, ZERO, ZERO, 32'd2};
      8'd3: instruction = {LDW, ANGLE, ZERO, ZERO, 32'd3};
      8'd4: instruction = {LDW, DRIFT, ZERO, ZERO, 32'd4};
      8'd5: instruction = {LDW, DEVIATION, ZERO, ZERO, 32'd5};
      8'd6: instruction = {LDW, EVIDENCE, ZERO, ZERO, 32'd6};
      8'd7: instruction = {LDW, T0, ZERO, ZERO, 32'd7};
      8'd8: instruction = {SHL, TOKENS, T0, IMM, 32'd16};
      8'd9: instruction = {SHR, TOKENS, TOKENS, IMM, 32'd16};
      8'd10: instruction = {SHR, LOCK, T0, IMM, 32'd16};
      8'd11: instruction = {LDW, POWER, ZERO, ZERO, 32'd8};
      8'd12: instruction = {LDW, SLOW, ZERO, ZERO, 32'd9};
      8'd13: instruction = {LDW, FAST, ZERO, ZERO, 32'd10};
      // The product of demand and context, of the first 31.
      8'd14: instruction = {ADD, I, ZERO, ZERO, 32'd0};
      8'd15: instruction = {ADD, DOT, ZERO, ZERO, 32'd0};
      8'd16: instruction = {ADD, KNOWN, ZERO, ZERO, 32'd0};
      8'd17: instruction = {ADD, LOST, ZERO, ZERO, 32'd0};
      8'd18: instruction = {SUB, BITS, IMM, SLOW, 32'hffffffff};
      8'd19: instruction = {ADD, T1, ZERO, IMM, 32'd31};
      // dot next:
      8'd20: instruction = {JGEU, NONE, I, WANTED, 32'(DOT_DONE)};
      8'd21: instruction = {JGEU, NONE, I, T1, 32'(DOT_DONE)};
      8'd22: instruction = {LDID, ID, I, ZERO, 32'd0};
      8'd23: instruction = {JGEU, NONE, ID, EXPERTS, 32'(DOT_SKIP)};
      8'd24: instruction = {LDL, T0, ID, ZERO, 32'd0};
      8'd25: instruction = {MULH, T0, T0, BITS, 32'd0};
      8'd26: instruction = {SHR, T0, T0, IMM, 32'd1};
      8'd27: instruction = {ADD, DOT, DOT, T0, 32'd0};
      8'd28: instruction = {ADD, KNOWN, KNOWN, IMM, 32'd1};
      // dot skip:
      8'd29: instruction = {ADD, I, I, IMM, 32'd1};
      8'd30: instruction = {JEQ, NONE, ZERO, ZERO, 32'(DOT_NEXT)};
      // dot done:
      // Their angle.
      8'd31: instruction = {SHL, KP, KNOWN, IMM, 32'd27};
      8'd32: instruction = {SQRT, T0, POWER, KP, 32'd0};
      8'd33: instruction = {ADD, T1, ZERO, ZERO, 32'd0};
      8'd34: instruction = {JEQ, NONE, T0, ZERO, 32'(COSINE)};
      8'd35: instruction = {ADD, T1, ZERO, IMM, 32'h80000000};
      8'd36: instruction = {JGEU, NONE, DOT, T0, 32'(COSINE)};
      8'd37: instruction = {DIVF, T1, DOT, T0, 32'd0};
      8'd38: instruction = {SHR, T1, T1, IMM, 32'd1};
      // cosine:
      8'd39: instruction = {SUBU, T0, IMM, T1, 32'h80000000};
      8'd40: instruction = {SQRT, T2, T0, IMM, 32'h80000000};
      8'd41: instruction = {SHL, T1, T1, IMM, 32'd1};
      8'd42: instruction = {MULH, T0, T1, IMM, 32'h00295e8b};
      8'd43: instruction = {SUB, T0, IMM, T0, 32'h00da90c5};
      8'd44: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd45: instruction = {SUB, T0, IMM, T0, 32'h022ff196};
      8'd46: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd47: instruction = {SUB, T0, IMM, T0, 32'h03f443e1};
      8'd48: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd49: instruction = {SUB, T0, IMM, T0, 32'h066c1c93};
      8'd50: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd51: instruction = {SUB, T0, IMM, T0, 32'h0b63a9d8};
      8'd52: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd53: instruction = {SUB, T0, IMM, T0, 32'h1b77f939};
      8'd54: instruction = {MULH, T0, T0, T1, 32'd0};
      8'd55: instruction = {SUB, T0, IMM, T0, 32'hc90fda73};
      8'd56: instruction = {MULH, T0, T0, T2, 32'd0};
      8'd57: instruction = {SHR, PHASE, T0, IMM, 32'd2};
      // The innovation, and the ratio of the context to it.
      8'd58: instruction = {ADDU, T3, KP, POWER, 32'd0};
      8'd59: instruction = {ADDU, T0, DOT, DOT, 32'd0};
      8'd60: instruction = {SUBU, T3, T3, T0, 32'd0};
      8'd61: instruction = {JNE, NONE, POWER, ZERO, 32'(SOME_POWER)};
      8'd62: instruction = {ADD, SNR, ZERO, ZERO, 32'd0};
      8'd63: instruction = {JEQ, NONE, T3, ZERO, 32'(FOLLOW)};
      8'd64: instruction = {ADD, SNR, ZERO, IMM, 32'he0000000};
      8'd65: instruction = {JEQ, NONE, ZERO, ZERO, 32'(FOLLOW)};
      // some power:
      8'd66: instruction = {ADD, SNR, ZERO, IMM, 32'h20000000};
      8'd67: instruction = {JEQ, NONE, T3, ZERO, 32'(FOLLOW)};
      8'd68: instruction = {ADD, T0, POWER, ZERO, 32'd0};
      8'd69: instruction = {CALL, NONE, ZERO, ZERO, 32'(LOG2)};
      8'd70: instruction = {ADD, SNR, T1, ZERO, 32'd0};
      8'd71: instruction = {ADD, T0, T3, ZERO, 32'd0};
      8'd72: instruction = {CALL, NONE, ZERO, ZERO, 32'(LOG2)};
      8'd73: instruction = {SUB, SNR, SNR, T1, 32'd0};
      // follow:
      // The loop and its lock.
      8'd74: instruction = {JGEU, NONE, TOKENS, ACQUIRE, 32'(TRACKING)};
      8'd75: instruction = {ADD, TOKENS, TOKENS, IMM, 32'd1};
      8'd76: instruction = {SUB, ERROR, PHASE, ANGLE, 32'd0};
      8'd77: instruction = {ADD, ONE, ZERO, IMM, 32'd1};
      8'd78: instruction = {JNE, NONE, TOKENS, ONE, 32'(ACQUIRING)};
      8'd79: instruction = {ADD, ANGLE, PHASE, ZERO, 32'd0};
      8'd80: instruction = {JEQ, NONE, ZERO, ZERO, 32'(KALMAN)};
      // acquiring:
      8'd81: instruction = {SHR, T1, TOKENS, IMM, 32'd1};
      8'd82: instruction = {ADD, T1, T1, IMM, 32'd1};
      8'd83: instruction = {ADD, T0, ERROR, ZERO, 32'd0};
      8'd84: instruction = {CALL, NONE, ZERO, ZERO, 32'(DIVIDE)};
      8'd85: instruction = {ADD, ANGLE, ANGLE, T0, 32'd0};
      8'd86: instruction = {ABS, T0, ERROR, ZERO, 32'd0};
      8'd87: instruction = {SUB, T0, T0, DEVIATION, 32'd0};
      8'd88: instruction = {CALL, NONE, ZERO, ZERO, 32'(DIVIDE)};
      8'd89: instruction = {ADD, DEVIATION, DEVIATION, T0, 32'd0};
      8'd90: instruction = {JLTU, NONE, TOKENS, ACQUIRE, 32'(KALMAN)};
      8'd91: instruction = {ADD, LOCK, ZERO, IMM, 32'd1};
      8'd92: instruction = {JEQ, NONE, ZERO, ZERO, 32'(KALMAN)};
      // tracking:
      8'd93: instruction = {SUB, ERROR, PHASE, ANGLE, 32'd0};
      8'd94: instruction = {SUB, ERROR, ERROR, DRIFT, 32'd0};
      8'd95: instruction = {SAR, T0, ERROR, P_SHIFT, 32'd0};
      8'd96: instruction = {ADD, ANGLE, ANGLE, DRIFT, 32'd0};
      8'd97: instruction = {ADD, ANGLE, ANGLE, T0, 32'd0};
      8'd98: instruction = {MAX, ANGLE, ANGLE, IMM, 32'd0};
      8'd99: instruction = {MIN, ANGLE, ANGLE, IMM, 32'h1921fb54};
      8'd100: instruction = {SAR, T0, ERROR, I_SHIFT, 32'd0};
      8'd101: instruction = {SAR, T1, DRIFT, P_SHIFT, 32'd0};
      8'd102: instruction = {ADD, DRIFT, DRIFT, T0, 32'd0};
      8'd103: instruction = {SUB, DRIFT, DRIFT, T1, 32'd0};
      8'd104: instruction = {MAX, DRIFT, DRIFT, IMM, 32'hf0000000};
      8'd105: instruction = {MIN, DRIFT, DRIFT, IMM, 32'h10000000};
      8'd106: instruction = {ABS, T0, ERROR, ZERO, 32'd0};
      8'd107: instruction = {SUB, T0, T0, DEVIATION, 32'd0};
      8'd108: instruction = {SAR, T0, T0, P_SHIFT, 32'd0};
      8'd109: instruction = {ADD, DEVIATION, DEVIATION, T0, 32'd0};
      8'd110: instruction = {SAR, T0, DEVIATION, IMM, 32'd4};
      8'd111: instruction = {MULS, T0, T0, SLACK, 32'd0};
      8'd112: instruction = {ISUB, T0, ERROR, T0, 32'd0};
      8'd113: instruction = {IADD, EVIDENCE, EVIDENCE, T0, 32'd0};
      8'd114: instruction = {MAX, EVIDENCE, EVIDENCE, IMM, 32'd0};
      8'd115: instruction = {MULS, T1, DEVIATION, THRESHOLD, 32'd0};
      8'd116: instruction = {JGEU, NONE, T1, EVIDENCE, 32'(IN_LOCK)};
      8'd117: instruction = {ADD, ANGLE, ZERO, ZERO, 32'd0};
      8'd118: instruction = {ADD, DRIFT, ZERO, ZERO, 32'd0};
      8'd119: instruction = {ADD, EVIDENCE, ZERO, ZERO, 32'd0};
      8'd120: instruction = {ADD, TOKENS, ZERO, ZERO, 32'd0};
      8'd121: instruction = {ADD, LOCK, ZERO, ZERO, 32'd0};
      8'd122: instruction = {ADD, LOST, ZERO, IMM, 32'd1};
      // max of numbers without a sign below 2^31
      8'd123: instruction = {ADD, T0, REOPENED, ZERO, 32'd0};
      8'd124: instruction = {JGEU, NONE, VARIANCE, T0, 32'(KALMAN)};
      8'd125: instruction = {ADD, VARIANCE, T0, ZERO, 32'd0};
      8'd126: instruction = {JEQ, NONE, ZERO, ZERO, 32'(KALMAN)};
      // in lock:
      8'd127: instruction = {ADD, TOKENS, TOKENS, IMM, 32'd1};
      8'd128: instruction = {MIN, TOKENS, TOKENS, IMM, 32'd65535};
      8'd129: instruction = {SHR, T1, T1, IMM, 32'd1};
      8'd130: instruction = {JGEU, NONE, T1, EVIDENCE, 32'(CALM)};
      8'd131: instruction = {ADD, LOCK, ZERO, IMM, 32'd1};
      8'd132: instruction = {ADD, TOKENS, ACQUIRE, ZERO, 32'd0};
      8'd133: instruction = {JEQ, NONE, ZERO, ZERO, 32'(KALMAN)};
      // calm:
      8'd134: instruction = {SHL, T0, ACQUIRE, IMM, 32'd1};
      8'd135: instruction = {MIN, T0, T0, IMM, 32'd65535};
      8'd136: instruction = {JLTU, NONE, TOKENS, T0, 32'(KALMAN)};
      8'd137: instruction = {ADD, LOCK, ZERO, IMM, 32'd2};
      // kalman:
      // The gain.
      8'd138: instruction = {JNE, NONE, PREDICTED, ZERO, 32'(BEGUN)};
      8'd139: instruction = {ADD, VARIANCE, ZERO, IMM, 32'h70000000};
      // begun:
      8'd140: instruction = {ADDU, T0, VARIANCE, PROCESS_NOISE, 32'd0};
      8'd141: instruction = {JEQ, NONE, T0, PREDICTED, 32'(CONVERGED)};
      8'd142: instruction = {ADD, PREDICTED, T0, ZERO, 32'd0};
      8'd143: instruction = {ADDU, T1, T0, IMM, 32'h10000000};
      8'd144: instruction = {DIVF, GAIN, T0, T1, 32'd0};
      // converged:
      8'd145: instruction = {MULH, T1, T0, GAIN, 32'd0};
      8'd146: instruction = {SUB, VARIANCE, T0, T1, 32'd0};
      // Both scales.
      8'd147: instruction = {ADD, T0, SLOW, ZERO, 32'd0};
      8'd148: instruction = {ADD, T2, GAIN, ZERO, 32'd0};
      8'd149: instruction = {CALL, NONE, ZERO, ZERO, 32'(SCALE)};
      8'd150: instruction = {ADD, SLOW, T0, ZERO, 32'd0};
      8'd151: instruction = {ADD, SLOW_SHIFT, T1, ZERO, 32'd0};
      8'd152: instruction = {ADD, SLOW_RAISE, T2, ZERO, 32'd0};
      8'd153: instruction = {ADD, T0, FAST, ZERO, 32'd0};
      8'd154: instruction = {ADD, T2, FAST_GAIN, ZERO, 32'd0};
      8'd155: instruction = {CALL, NONE, ZERO, ZERO, 32'(SCALE)};
      8'd156: instruction = {ADD, FAST, T0, ZERO, 32'd0};
      8'd157: instruction = {ADD, FAST_SHIFT, T1, ZERO, 32'd0};
      8'd158: instruction = {ADD, FAST_RAISE, T2, ZERO, 32'd0};
      // The levels.
      8'd159: instruction = {ADD, T0, SLOW_SHIFT, FAST_SHIFT, 32'd0};
      8'd160: instruction = {JEQ, NONE, T0, ZERO, 32'(RAISE_ALL)};
      8'd161: instruction = {SWEEP, NONE, ZERO, ZERO, 32'd0};
      // raise all:
      8'd162: instruction = {ADD, I, ZERO, ZERO, 32'd0};
      // raise next:
      8'd163: instruction = {JGEU, NONE, I, WANTED, 32'(RAISED)};
      8'd164: instruction = {LDID, ID, I, ZERO, 32'd0};
      8'd165: instruction = {JGEU, NONE, ID, EXPERTS, 32'(RAISE_SKIP)};
      8'd166: instruction = {RAISE, NONE, ID, ZERO, 32'd0};
      // raise skip:
      8'd167: instruction = {ADD, I, I, IMM, 32'd1};
      8'd168: instruction = {JEQ, NONE, ZERO, ZERO, 32'(RAISE_NEXT)};
      // raised:
      // The power of the context after this token.
      8'd169: instruction = {JEQ, NONE, GAIN, ZERO, 32'(SAVE)};
      8'd170: instruction = {SUB, T0, IMM, GAIN, 32'd0};
      8'd171: instruction = {MULH, T1, POWER, T0, 32'd0};
      8'd172: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd173: instruction = {MULH, T2, DOT, T0, 32'd0};
      8'd174: instruction = {MULH, T2, T2, GAIN, 32'd0};
      8'd175: instruction = {ADDU, T2, T2, T2, 32'd0};
      8'd176: instruction = {MULH, T3, KP, GAIN, 32'd0};
      8'd177: instruction = {MULH, T3, T3, GAIN, 32'd0};
      8'd178: instruction = {ADDU, POWER, T1, T2, 32'd0};
      8'd179: instruction = {ADDU, POWER, POWER, T3, 32'd0};
      // save:
      8'd180: instruction = {STW, NONE, VARIANCE, ZERO, 32'd0};
      8'd181: instruction = {STW, NONE, PREDICTED, ZERO, 32'd1};
      8'd182: instruction = {STW, NONE, GAIN, ZERO, 32'd2};
      8'd183: instruction = {STW, NONE, ANGLE, ZERO, 32'd3};
      8'd184: instruction = {STW, NONE, DRIFT, ZERO, 32'd4};
      8'd185: instruction = {STW, NONE, DEVIATION, ZERO, 32'd5};
      8'd186: instruction = {STW, NONE, EVIDENCE, ZERO, 32'd6};
      8'd187: instruction = {SHL, T0, LOCK, IMM, 32'd16};
      8'd188: instruction = {ADD, T0, T0, TOKENS, 32'd0};
      8'd189: instruction = {STW, NONE, T0, ZERO, 32'd7};
      8'd190: instruction = {STW, NONE, POWER, ZERO, 32'd8};
      8'd191: instruction = {STW, NONE, SLOW, ZERO, 32'd9};
      8'd192: instruction = {STW, NONE, FAST, ZERO, 32'd10};
      8'd193: instruction = {HALT, NONE, ZERO, ZERO, 32'd0};
      // log2:
      // t1 = log2(t0), 24 fraction bits; t2 and error are lost.
      8'd194: instruction = {LZ, T2, T0, ZERO, 32'd0};
      8'd195: instruction = {SHL, T0, T0, T2, 32'd0};
      8'd196: instruction = {SHL, T0, T0, IMM, 32'd1};
      8'd197: instruction = {MULH, T1, T0, IMM, 32'h01b17a85};
      8'd198: instruction = {SUB, T1, IMM, T1, 32'h07e6a0df};
      8'd199: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd200: instruction = {SUB, T1, IMM, T1, 32'h11e3f3b8};
      8'd201: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd202: instruction = {SUB, T1, IMM, T1, 32'h1d544ef8};
      8'd203: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd204: instruction = {SUB, T1, IMM, T1, 32'h2df854b4};
      8'd205: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd206: instruction = {SUB, T1, IMM, T1, 32'h5c52ca6d};
      8'd207: instruction = {MULH, T1, T1, T0, 32'd0};
      8'd208: instruction = {SHR, T1, T1, IMM, 32'd6};
      8'd209: instruction = {SUB, T2, IMM, T2, 32'd31};
      8'd210: instruction = {SHL, T2, T2, IMM, 32'd24};
      8'd211: instruction = {ADD, T1, T1, T2, 32'd0};
      8'd212: instruction = {RET, NONE, ZERO, ZERO, 32'd0};
      // divide:
      // t0 = t0 / t1 towards 0, t1 below 2^31.
      8'd213: instruction = {JGES, NONE, T0, ZERO, 32'(DIVIDE_UP)};
      8'd214: instruction = {SUB, T0, IMM, T0, 32'd0};
      8'd215: instruction = {DIVI, T0, T0, T1, 32'd0};
      8'd216: instruction = {SUB, T0, IMM, T0, 32'd0};
      8'd217: instruction = {RET, NONE, ZERO, ZERO, 32'd0};
      // divide up:
      8'd218: instruction = {DIVI, T0, T0, T1, 32'd0};
      8'd219: instruction = {RET, NONE, ZERO, ZERO, 32'd0};
      // scale:
      // A step of the scale t0 by the gain t2: t0 after it, the shift t1, what being wanted adds t2.
      8'd220: instruction = {SUB, BITS, IMM, T0, 32'hffffffff};
      8'd221: instruction = {ADD, T3, BITS, ZERO, 32'd0};
      8'd222: instruction = {JEQ, NONE, T2, ZERO, 32'(SCALED)};
      8'd223: instruction = {SUB, T3, IMM, T2, 32'd0};
      8'd224: instruction = {MULH, T3, T3, BITS, 32'd0};
      // scaled:
      8'd225: instruction = {ADD, T1, ZERO, ZERO, 32'd0};
      8'd226: instruction = {ADD, BITS, T3, ZERO, 32'd0};
      8'd227: instruction = {ADD, ONE, ZERO, IMM, 32'h10000000};
      8'd228: instruction = {JGEU, NONE, T3, ONE, 32'(NORMAL)};
      8'd229: instruction = {LZ, T1, T3, ZERO, 32'd0};
      8'd230: instruction = {SHL, BITS, T3, T1, 32'd0};
      8'd231: instruction = {JNE, NONE, T3, ZERO, 32'(NORMAL)};
      8'd232: instruction = {SUB, BITS, ZERO, IMM, 32'd1};
      // normal:
      8'd233: instruction = {SUB, T0, IMM, BITS, 32'hffffffff};
      8'd234: instruction = {SHR, T2, T2, IMM, 32'd4};
      8'd235: instruction = {DIVF, T2, T2, BITS, 32'd0};
      8'd236: instruction = {RET, NONE, ZERO, ZERO, 32'd0};
      default: instruction = {HALT, NONE, ZERO, ZERO, 32'd0};
    endcase
  end
endmodule
